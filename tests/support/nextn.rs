//! Models with a NextN layer, and pairs of files that have one between them.

use super::TestModel;
use super::arch::hy_v3_nextn::{DRAFT, Parts, TRUNK, WHOLE};
use super::arch::{glm4_nextn, qwen35_nextn};
use super::hostile::truncated;
use super::vocab::Vocab;

/// Models that run alone, with `--nextn` or without.
pub const NEXTN: &[TestModel] = &[
    TestModel { name: "nextn", about: "a NextN layer in the model's own file", build: || WHOLE.build() },
    TestModel {
        name: "nextn-head",
        about: "the NextN layer has an output matrix of its own",
        build: || Parts { own_head: true, ..WHOLE }.build(),
    },
    TestModel {
        name: "nextn-hybrid",
        about: "a NextN layer over a recurrent layer and one of attention, tied embeddings",
        build: qwen35_nextn::build,
    },
    TestModel { name: "nextn-trunk", about: "the same model without its NextN layer", build: || TRUNK.build() },
];

/// Drafts: NextN layers that need `nextn-trunk`, and those that must be refused.
pub const DRAFTS: &[TestModel] = &[
    TestModel { name: "draft", about: "the NextN layer of nextn", build: || DRAFT.build() },
    TestModel {
        name: "draft-head",
        about: "the NextN layer of nextn-head",
        build: || Parts { own_head: true, ..DRAFT }.build(),
    },
    TestModel { name: "draft-cut", about: "its last tensors missing", build: || truncated(DRAFT.build(), 3, 4) },
    TestModel { name: "draft-cut-header", about: "ends inside the keys", build: || truncated(DRAFT.build(), 1, 200) },
    TestModel { name: "draft-split", about: "one of two parts", build: || Parts { split: Some(2), ..DRAFT }.build() },
    TestModel {
        name: "draft-undeclared",
        about: "no nextn_predict_layers",
        build: || Parts { n_layer_nextn: None, ..DRAFT }.build(),
    },
    TestModel {
        name: "draft-two",
        about: "says it has two NextN layers",
        build: || Parts { n_layer_nextn: Some(2), block_count: 4, ..DRAFT }.build(),
    },
    TestModel {
        name: "draft-no-trunk",
        about: "its NextN layer is the only layer: it would share the trunk's cache",
        build: || Parts { block_count: 1, ..DRAFT }.build(),
    },
    TestModel {
        name: "draft-narrow",
        about: "says its hidden states are narrower",
        build: || Parts { n_embd_out: Some(32), ..DRAFT }.build(),
    },
    TestModel {
        name: "draft-vocab",
        about: "another vocabulary",
        build: || Parts { vocab: Vocab::Bpe("qwen2"), ..DRAFT }.build(),
    },
    TestModel {
        name: "trunk-undeclared",
        about: "NextN tensors in a model whose keys say nothing of them",
        build: || Parts { n_layer_nextn: None, ..WHOLE }.build(),
    },
    TestModel {
        name: "trunk-longer",
        about: "a trunk of one layer more than the draft comes after",
        build: || Parts { block_count: 3, ..TRUNK }.build(),
    },
    TestModel {
        name: "nextn-unused",
        about: "of an architecture whose NextN layers llama.cpp does not evaluate",
        build: glm4_nextn::build,
    },
    TestModel {
        name: "nextn-empty",
        about: "says it has a NextN layer, and has none",
        build: || Parts { n_layer_nextn: Some(1), block_count: 3, ..TRUNK }.build(),
    },
];
