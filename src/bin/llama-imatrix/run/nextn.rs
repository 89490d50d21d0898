//! `--nextn` and `--model-draft`: finds the NextN layer.

use llama_imatrix::llama::{Error, Model, ModelOptions, nextn_available};
use llama_imatrix::nextn::{self, Layer, Located, ModelHeader, check_vocabularies};

use crate::config::Collect;
use crate::ui::log;

/// Loads the draft, if there is one.
pub(crate) fn load_draft(task: &Collect, model: &Model, options: &ModelOptions) -> anyhow::Result<Option<Model>> {
    let Some(path) = &task.draft_model else { return Ok(None) };
    let draft = Model::load(path, options).map_err(|error| {
        anyhow::Error::from(error).context(format!("failed to load the draft model '{}'", path.display()))
    })?;
    check_vocabularies(model, &draft)?;
    Ok(Some(draft))
}

/// The layer to collect for. Asked for and absent is worth a warning, no error.
pub(crate) fn locate<'m>(
    task: &Collect,
    model: &'m Model,
    draft: Option<&'m Model>,
) -> anyhow::Result<Option<Layer<'m>>> {
    if !task.nextn {
        return Ok(None);
    }
    let (flag, path) = match &task.draft_model {
        Some(path) => ("'-md'", path),
        None => ("'--nextn'", &task.model),
    };
    let shape = ModelHeader::read(path)
        .inspect_err(|error| log::warn(format_args!("cannot read '{}': {error}", path.display())));
    match nextn::locate(model, draft.unwrap_or(model), shape.as_ref().ok())? {
        Located::NoLayers => {
            log::warn(format_args!("the model has no NextN layers, {flag} has no effect"));
            Ok(None)
        }
        Located::NoTensors => {
            log::warn(format_args!("no NextN tensor in '{}', {flag} has no effect", path.display()));
            Ok(None)
        }
        Located::Layer(_) if !nextn_available() => Err(Error::NextnUnavailable.into()),
        Located::Layer(layer) => {
            log::info(format_args!("processing 1 NextN layer(s) from block {}", layer.index));
            Ok(Some(layer))
        }
    }
}
