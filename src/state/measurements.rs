//! Measurements of the layers in a state file.

use super::Error;
use crate::gguf::{DType, File, Tensor, Value, Writer};
use crate::lens::{FindingsTable, Measurements};

const SETTINGS: &str = "lens.settings";
const COLUMNS: &str = "lens.columns";
const CHUNKS: &str = "lens.chunks";
const VALUES: &str = "lens.values";

pub(super) fn write(file: &mut Writer<'_>, measurements: Option<&Measurements>) -> Result<(), Error> {
    let Some((measurements, table)) = measurements.and_then(|m| Some((m, m.table()?))) else { return Ok(()) };
    let settings = serde_json::to_string(&measurements.settings).map_err(std::io::Error::from)?;
    file.set(SETTINGS, settings).set(COLUMNS, table.columns);
    // Per chunk, its number and the number of its positions.
    let chunks: Vec<i64> = table.chunks.iter().flat_map(|&(chunk, rows)| [chunk as i64, rows as i64]).collect();
    file.i64_tensor(CHUNKS, &[2, table.chunks.len() as u64], chunks)?;
    if !table.values.is_empty() {
        let bytes: Vec<u8> = table.values.iter().flat_map(|value| value.to_le_bytes()).collect();
        file.tensor(VALUES, DType::F64, &[table.values.len() as u64], bytes)?;
    }
    Ok(())
}

pub(super) fn read(file: &File<'_>) -> Result<Option<Measurements>, Error> {
    let Some(settings) = file.get(SETTINGS) else { return Ok(None) };
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    let settings = text(Some(settings)).and_then(|text| serde_json::from_str(&text).ok());
    let settings = settings.ok_or(Error::Measurements("'lens.settings' is not known"))?;
    let columns = text(file.get(COLUMNS)).ok_or(Error::Measurements("'lens.columns' is not a string"))?;
    let numbers = |tensor: Tensor<'_>| {
        let words = || tensor.data.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect::<Vec<i64>>();
        (tensor.dtype == DType::I64 && tensor.shape[0] == 2).then(words)
    };
    let chunks = file.tensor(CHUNKS).and_then(numbers);
    let chunks = chunks.ok_or(Error::Measurements("'lens.chunks' is missing, or not i64 in rows of 2"))?;
    let chunks: Option<Vec<(u64, usize)>> = chunks
        .as_chunks::<2>()
        .0
        .iter()
        .map(|&[chunk, rows]| Some((chunk.try_into().ok()?, rows.try_into().ok()?)))
        .collect();
    let chunks = chunks.filter(|chunks| chunks.is_sorted_by(|a, b| a.0 < b.0));
    let chunks =
        chunks.ok_or(Error::Measurements("the chunks in 'lens.chunks' do not ascend, or a number is negative"))?;
    let values = match file.tensor(VALUES) {
        None => Vec::new(),
        Some(tensor) if tensor.dtype == DType::F64 => {
            tensor.data.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect()
        }
        Some(_) => return Err(Error::Measurements("'lens.values' is not f64")),
    };
    let measurements = Measurements::from_table(settings, &FindingsTable { columns, chunks, values });
    measurements.map(Some).map_err(Error::Measurements)
}
