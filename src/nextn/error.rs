/// The reason why the `NextN` layers of these models cannot be collected.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub(super) String);

impl Error {
    pub(super) fn several_layers(found: u32) -> Self {
        Self(format!("multi-layer NextN drafts are not supported (found {found})"))
    }

    pub(super) fn shared_cache() -> Self {
        Self("NextN layers sharing the trunk's KV cache are not supported".to_owned())
    }
}
