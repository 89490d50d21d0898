//! Parses GGUF versions 2 and 3. Each number is checked before it is used.

use std::collections::HashSet;
use std::ops::Range;

use super::cursor::Cursor;
use super::value::ValueType;
use super::{
    ALIGNMENT_KEY, Array, DEFAULT_ALIGNMENT, DType, Error, MAGIC, MAX_ARRAY_ELEMENTS, MAX_DIMS, MAX_NAME_BYTES,
    VERSION, Value,
};

/// Size of the shortest key/value pair: a key of one byte, a type, a value of one byte.
const SHORTEST_KEY: u64 = 8 + 1 + 4 + 1;
/// Size of the shortest tensor description: an empty name, no dimensions, type and offset.
const SHORTEST_TENSOR: u64 = 8 + 4 + 4 + 8;

/// The contents of a file that keeps all rules.
pub(super) struct Parsed {
    pub(super) version: u32,
    pub(super) alignment: u32,
    pub(super) keys: Vec<(String, Value)>,
    /// Bytes of all key/value pairs.
    pub(super) key_bytes: u64,
    pub(super) tensors: Vec<Info>,
}

/// The description of a tensor. Its data range lies within the file.
#[derive(Debug)]
pub(super) struct Info {
    pub(super) name: String,
    pub(super) dtype: DType,
    pub(super) n_dims: usize,
    pub(super) shape: [u64; MAX_DIMS],
    pub(super) data: Range<usize>,
}

/// Parses a whole file.
pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, Error> {
    let mut cursor = Cursor::new(bytes);
    let header = Header::read(&mut cursor)?;
    let start = cursor.at();
    let keys = read_keys(&mut cursor, header.keys)?;
    let key_bytes = cursor.at() - start;
    let alignment = alignment(&keys)?;
    let described = read_descriptions(&mut cursor, header.tensors)?;
    let tensors = check_offsets(described, &cursor, alignment)?;
    Ok(Parsed { version: header.version, alignment, keys, key_bytes, tensors })
}

struct Header {
    version: u32,
    tensors: u64,
    keys: u64,
}

impl Header {
    fn read(cursor: &mut Cursor<'_>) -> Result<Self, Error> {
        let magic = cursor.array("magic")?;
        if magic != MAGIC {
            return Err(Error::Magic(magic));
        }
        let version = cursor.u32("version")?;
        match version {
            2..=VERSION => {}
            // Version 3 in the other byte order is 0x03000000: the low half is zero.
            _ if version != 0 && version.trailing_zeros() >= 16 => {
                return Err(Error::ByteOrder(version));
            }
            _ => return Err(Error::Version(version)),
        }
        let tensors = cursor.u64("number of tensors")?;
        let keys = cursor.u64("number of key/values")?;
        let left = cursor.left();
        if tensors > left / SHORTEST_TENSOR {
            return Err(Error::TensorCount { found: tensors, left, limit: left / SHORTEST_TENSOR });
        }
        if keys > left / SHORTEST_KEY {
            return Err(Error::KeyCount { found: keys, left, limit: left / SHORTEST_KEY });
        }
        Ok(Self { version, tensors, keys })
    }
}

fn read_keys(cursor: &mut Cursor<'_>, count: u64) -> Result<Vec<(String, Value)>, Error> {
    let mut seen = HashSet::new();
    let mut keys = Vec::new();
    for index in 0..count {
        let key = cursor.name("key")?;
        if key.is_empty() {
            return Err(Error::EmptyKey { index });
        }
        if !seen.insert(key) {
            return Err(Error::DuplicateKey(key.to_owned()));
        }
        let value = read_value(cursor, key)?;
        keys.push((key.to_owned(), value));
    }
    Ok(keys)
}

fn read_value(cursor: &mut Cursor<'_>, key: &str) -> Result<Value, Error> {
    let id = cursor.u32("value type")?;
    let value_type = ValueType::from_id(id).ok_or_else(|| Error::ValueType { key: key.to_owned(), found: id })?;
    Value::read(value_type, cursor).unwrap_or_else(|| read_array(cursor, key).map(Value::Array))
}

fn read_array(cursor: &mut Cursor<'_>, key: &str) -> Result<Array, Error> {
    let id = cursor.u32("array element type")?;
    let unknown = || Error::ValueType { key: key.to_owned(), found: id };
    let element = ValueType::from_id(id).ok_or_else(unknown)?;
    let n = cursor.u64("array length")?;
    if n > MAX_ARRAY_ELEMENTS {
        return Err(Error::ArrayLength { key: key.to_owned(), found: n });
    }
    Array::read(element, n, cursor).unwrap_or_else(|| Err(unknown()))
}

fn alignment(keys: &[(String, Value)]) -> Result<u32, Error> {
    match keys.iter().find(|(k, _)| k == ALIGNMENT_KEY) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some((_, Value::U32(n))) if n.is_power_of_two() => Ok(*n),
        Some((_, Value::U32(n))) => Err(Error::Alignment(*n)),
        Some((_, other)) => Err(Error::AlignmentType(other.value_type().name())),
    }
}

/// The description of a tensor before its offset is checked.
struct Description {
    name: String,
    dtype: DType,
    n_dims: usize,
    shape: [u64; MAX_DIMS],
    bytes: u64,
    offset: u64,
}

fn read_descriptions(cursor: &mut Cursor<'_>, count: u64) -> Result<Vec<Description>, Error> {
    let mut seen = HashSet::new();
    let mut out = Vec::new();
    for _ in 0..count {
        let name = cursor.name("tensor name")?;
        if name.len() > MAX_NAME_BYTES {
            return Err(Error::NameLength { name: name.to_owned() });
        }
        if !seen.insert(name) {
            return Err(Error::DuplicateTensor(name.to_owned()));
        }
        out.push(read_description(cursor, name)?);
    }
    Ok(out)
}

fn read_description(cursor: &mut Cursor<'_>, name: &str) -> Result<Description, Error> {
    let name = name.to_owned();
    let found = cursor.u32("number of dimensions")?;
    let n_dims = found as usize;
    let mut shape = [1_u64; MAX_DIMS];
    let Some(dims) = shape.get_mut(..n_dims) else {
        return Err(Error::Dimensions { name, found: found.into() });
    };
    for n in dims {
        *n = cursor.u64("dimension")?;
    }
    let overflow = |name: &str| Error::ShapeOverflow { name: name.to_owned(), shape: shape.to_vec() };
    let elements = count_elements(shape).ok_or_else(|| overflow(&name))?;

    let id = cursor.u32("tensor type")?;
    let Some(dtype) = DType::from_id(id) else {
        return Err(Error::TensorType { name, found: id });
    };
    if !shape[0].is_multiple_of(dtype.block_len()) {
        return Err(Error::RowBlocks { name, row: shape[0], dtype });
    }
    let bytes = dtype.bytes_for(elements).ok_or_else(|| overflow(&name))?;
    let offset = cursor.u64("tensor offset")?;
    Ok(Description { name, dtype, n_dims, shape, bytes, offset })
}

/// Returns the product of the dimensions. As in ggml, whose counts are signed, each and the product must fit 63 bits.
fn count_elements(shape: [u64; MAX_DIMS]) -> Option<u64> {
    const MAX: u64 = i64::MAX as u64;
    let mut product = 1_u64;
    for n in shape {
        if n > MAX {
            return None;
        }
        product = product.checked_mul(n).filter(|&p| p <= MAX)?;
    }
    Some(product)
}

/// Checks that the tensors' data is contiguous, aligned and within the file.
fn check_offsets(described: Vec<Description>, cursor: &Cursor<'_>, alignment: u32) -> Result<Vec<Info>, Error> {
    let alignment = u64::from(alignment);
    let mut cursor = cursor.clone();
    if !described.is_empty() {
        let padding = cursor.at().next_multiple_of(alignment) - cursor.at();
        cursor.take("padding before the tensor data", padding)?;
    }
    let start = cursor.at();
    let mut expected = 0_u64;
    let mut out = Vec::with_capacity(described.len());
    for t in described {
        if t.offset != expected {
            return Err(Error::Offset { name: t.name, found: t.offset, expected });
        }
        let (at, left) = (start.saturating_add(expected), cursor.left().saturating_sub(expected));
        if t.bytes > left {
            return Err(Error::Truncated { what: "tensor data", at, need: t.bytes, left });
        }
        // Within the file, so it fits usize and cannot overflow.
        let data = at as usize..(at + t.bytes) as usize;
        expected += t.bytes.next_multiple_of(alignment);
        out.push(Info { name: t.name, dtype: t.dtype, n_dims: t.n_dims, shape: t.shape, data });
    }
    Ok(out)
}
