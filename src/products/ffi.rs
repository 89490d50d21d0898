//! The shim in `vendor/products`.
#![allow(missing_docs, non_camel_case_types, unreachable_pub, clippy::pedantic)]

use llama_cpp_sys_2::{ggml_backend_buffer_type, ggml_tensor};

include!(concat!(env!("OUT_DIR"), "/products.rs"));
