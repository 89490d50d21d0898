#include "products.h"

#include "ggml-backend-impl.h" // creation of backends, not in ggml's public interface: the reason for this file

#include <cstring>
#include <omp.h>

namespace {

const char * name_of_backend = nullptr;
const imatrix_products_functions * functions = nullptr;
ggml_backend_buffer_type_t repacked_type = nullptr;
ggml_backend_buffer_type_t amx_type = nullptr;

const char * name(ggml_backend_t) {
    return name_of_backend;
}

void free_backend(ggml_backend_t backend) {
    functions->destroy(backend->context);
    delete backend;
}

ggml_status compute(ggml_backend_t backend, ggml_cgraph * graph) {
    const int nodes = ggml_graph_n_nodes(graph);
    for (int i = 0; i < nodes; i++) {
        ggml_tensor * node = ggml_graph_node(graph, i);
        if ((node->flags & GGML_TENSOR_FLAG_COMPUTE) == 0) {
            continue;
        }
        switch (node->op) {
            case GGML_OP_NONE:
            case GGML_OP_RESHAPE:
            case GGML_OP_VIEW:
            case GGML_OP_PERMUTE:
            case GGML_OP_TRANSPOSE:
                break;
            default:
                if (!functions->compute(backend->context, node)) {
                    return GGML_STATUS_FAILED;
                }
        }
    }
    return GGML_STATUS_SUCCESS;
}

ggml_guid_t guid() {
    static ggml_guid id = { 0x69, 0x6d, 0x61, 0x74, 0x72, 0x69, 0x78, 0x2d, 0x70, 0x72, 0x6f, 0x64, 0x75, 0x63, 0x74, 0x73 };
    return &id;
}

const char * device_name(ggml_backend_dev_t) {
    return name_of_backend;
}

const char * device_description(ggml_backend_dev_t) {
    return "Matrix products on the CPU, with ggml's bits";
}

void device_memory(ggml_backend_dev_t, size_t * free, size_t * total) {
    *free  = 0; // it has no memory
    *total = 0;
}

enum ggml_backend_dev_type device_type(ggml_backend_dev_t) {
    return GGML_BACKEND_DEVICE_TYPE_ACCEL;
}

void device_props(ggml_backend_dev_t device, ggml_backend_dev_props * props) {
    std::memset(props, 0, sizeof(*props));
    props->name        = device_name(device);
    props->description = device_description(device);
    props->type        = device_type(device);
    props->caps.buffer_from_host_ptr = true;
}

ggml_backend_t init_backend(ggml_backend_dev_t device, const char *) {
    void * state = functions->create();
    if (!state) {
        return nullptr;
    }
    ggml_backend_i interface = {};
    interface.get_name      = name;
    interface.free          = free_backend;
    interface.graph_compute = compute;
    return new ggml_backend { guid(), interface, device, state };
}

ggml_backend_buffer_type_t buffer_type(ggml_backend_dev_t) {
    return ggml_backend_cpu_buffer_type();
}

ggml_backend_buffer_t buffer_from_pointer(ggml_backend_dev_t, void * pointer, size_t size, size_t) {
    return ggml_backend_cpu_buffer_from_ptr(pointer, size);
}

bool supports_op(ggml_backend_dev_t, const ggml_tensor * node) {
    switch (node->op) {
        case GGML_OP_NONE:
        case GGML_OP_RESHAPE:
        case GGML_OP_VIEW:
        case GGML_OP_PERMUTE:
        case GGML_OP_TRANSPOSE:
            return true;
        default:
            return functions->supports(node);
    }
}

bool supports_buffer_type(ggml_backend_dev_t, ggml_backend_buffer_type_t type) {
    return ggml_backend_buft_is_host(type) || type == repacked_type || type == amx_type;
}

void set_threads(ggml_backend_t backend, int threads) {
    functions->set_threads(backend->context, threads);
}

const char * registry_name(ggml_backend_reg_t) {
    return name_of_backend;
}

size_t device_count(ggml_backend_reg_t) {
    return 1;
}

ggml_backend_dev_t device(ggml_backend_reg_t registry, size_t) {
    static ggml_backend_device device = [registry] {
        ggml_backend_device_i interface = {};
        interface.get_name             = device_name;
        interface.get_description      = device_description;
        interface.get_memory           = device_memory;
        interface.get_type             = device_type;
        interface.get_props            = device_props;
        interface.init_backend         = init_backend;
        interface.get_buffer_type      = buffer_type;
        interface.buffer_from_host_ptr = buffer_from_pointer;
        interface.supports_op          = supports_op;
        interface.supports_buft        = supports_buffer_type;
        return ggml_backend_device { interface, registry, nullptr };
    }();
    return &device;
}

void * function(ggml_backend_reg_t, const char * wanted) {
    return std::strcmp(wanted, "ggml_backend_set_n_threads") == 0 ? reinterpret_cast<void *>(set_threads) : nullptr;
}

} // namespace

extern "C" void imatrix_products_register(
    const char * name, const imatrix_products_functions * given, ggml_backend_buffer_type_t repacked, ggml_backend_buffer_type_t amx) {
    static ggml_backend_reg registry = { GGML_BACKEND_API_VERSION, { registry_name, device_count, device, function }, nullptr };
    name_of_backend = name;
    functions       = given;
    repacked_type   = repacked;
    amx_type        = amx;
    ggml_backend_register(&registry);
}

extern "C" void imatrix_products_team(int threads, void (*work)(void *, int, int), void * data) {
    if (threads <= 1) {
        work(data, 0, 1);
        return;
    }
    #pragma omp parallel num_threads(threads)
    work(data, omp_get_thread_num(), omp_get_num_threads());
}
