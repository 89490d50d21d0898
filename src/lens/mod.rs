//! What single layers do to a model's predictions: logit lens, logit prism and layer similarity.

pub mod file;
