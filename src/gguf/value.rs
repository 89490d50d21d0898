//! The typed values of a GGUF file.

use std::io;

use super::Error;
use super::cursor::Cursor;

/// Takes the bytes of a value on their way into a file.
pub(super) type Sink<'s> = &'s mut dyn FnMut(&[u8]) -> io::Result<()>;

/// A Rust type of values, alone or as elements of an array.
trait Element: Sized {
    fn read(cursor: &mut Cursor<'_>) -> Result<Self, Error>;

    /// Reads `n` elements, at most 2^30. The file must have their bytes before anything is allocated.
    fn read_array(cursor: &mut Cursor<'_>, n: u64) -> Result<Vec<Self>, Error>;

    fn write(&self, to: Sink<'_>) -> io::Result<()>;
}

macro_rules! numbers {
    ($($t:ty),*) => {$(
        impl Element for $t {
            fn read(cursor: &mut Cursor<'_>) -> Result<Self, Error> {
                Ok(Self::from_le_bytes(cursor.array("value")?))
            }

            fn read_array(cursor: &mut Cursor<'_>, n: u64) -> Result<Vec<Self>, Error> {
                let bytes = cursor.take("array", n * size_of::<Self>() as u64)?;
                Ok(bytes.as_chunks().0.iter().map(|bytes| Self::from_le_bytes(*bytes)).collect())
            }

            fn write(&self, to: Sink<'_>) -> io::Result<()> {
                to(&self.to_le_bytes())
            }
        }
    )*};
}

numbers!(u8, i8, u16, i16, u32, i32, f32, u64, i64, f64);

impl Element for bool {
    fn read(cursor: &mut Cursor<'_>) -> Result<Self, Error> {
        Ok(u8::read(cursor)? != 0)
    }

    fn read_array(cursor: &mut Cursor<'_>, n: u64) -> Result<Vec<Self>, Error> {
        Ok(cursor.take("array", n)?.iter().map(|&byte| byte != 0).collect())
    }

    fn write(&self, to: Sink<'_>) -> io::Result<()> {
        to(&[u8::from(*self)])
    }
}

impl Element for String {
    fn read(cursor: &mut Cursor<'_>) -> Result<Self, Error> {
        Ok(Self::from_utf8_lossy(cursor.string("string value")?).into_owned())
    }

    fn read_array(cursor: &mut Cursor<'_>, n: u64) -> Result<Vec<Self>, Error> {
        // A string takes at least the 8 bytes of its length, so the file's size bounds the allocation.
        let need = n * 8;
        if need > cursor.left() {
            return Err(Error::Truncated { what: "array of strings", at: cursor.at(), need, left: cursor.left() });
        }
        let mut out = Vec::with_capacity(n as usize);
        for _ in 0..n {
            out.push(Self::from_utf8_lossy(cursor.string("string in array")?).into_owned());
        }
        Ok(out)
    }

    fn write(&self, to: Sink<'_>) -> io::Result<()> {
        to(&(self.len() as u64).to_le_bytes())?;
        to(self.as_bytes())
    }
}

macro_rules! types {
    ($($variant:ident = $id:literal, $name:literal, $t:ty;)*) => {
        /// The type of a value or of an array's elements (`gguf_type`).
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum ValueType {
            $($variant = $id,)*
            Array = 9,
        }

        impl ValueType {
            /// Returns the type that has this id in a file.
            pub(super) const fn from_id(id: u32) -> Option<Self> {
                match id {
                    $($id => Some(Self::$variant),)*
                    9 => Some(Self::Array),
                    _ => None,
                }
            }

            /// Returns ggml's name for the type.
            pub(crate) const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                    Self::Array => "arr",
                }
            }
        }

        /// An array value. All elements have the same type, which is never an array.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs)] // the variants are the element types
        pub enum Array {
            $($variant(Vec<$t>),)*
        }

        impl Array {
            /// Returns the type of the elements.
            pub(crate) const fn element_type(&self) -> ValueType {
                match self {
                    $(Self::$variant(_) => ValueType::$variant,)*
                }
            }

            /// Returns the number of elements.
            pub(crate) fn len(&self) -> usize {
                match self {
                    $(Self::$variant(elements) => elements.len(),)*
                }
            }

            /// Reads `n` elements; `None` if they are arrays.
            pub(super) fn read(element: ValueType, n: u64, cursor: &mut Cursor<'_>) -> Option<Result<Self, Error>> {
                match element {
                    $(ValueType::$variant => Some(Element::read_array(cursor, n).map(Self::$variant)),)*
                    ValueType::Array => None,
                }
            }

            fn write(&self, to: Sink<'_>) -> io::Result<()> {
                (self.element_type() as u32).write(to)?;
                (self.len() as u64).write(to)?;
                match self {
                    $(Self::$variant(elements) => elements.iter().try_for_each(|element| element.write(to)),)*
                }
            }
        }

        /// A key's value.
        ///
        /// When a string is read, bytes that are not UTF-8 become U+FFFD.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs)] // the variants are the format's types
        pub enum Value {
            $($variant($t),)*
            Array(Array),
        }

        impl Value {
            /// Returns the value's type.
            pub(crate) const fn value_type(&self) -> ValueType {
                match self {
                    $(Self::$variant(_) => ValueType::$variant,)*
                    Self::Array(_) => ValueType::Array,
                }
            }

            /// Reads a value; `None` if it is an array.
            pub(super) fn read(value_type: ValueType, cursor: &mut Cursor<'_>) -> Option<Result<Self, Error>> {
                match value_type {
                    $(ValueType::$variant => Some(Element::read(cursor).map(Self::$variant)),)*
                    ValueType::Array => None,
                }
            }

            /// Writes its type and itself.
            pub(super) fn write(&self, to: Sink<'_>) -> io::Result<()> {
                (self.value_type() as u32).write(to)?;
                match self {
                    $(Self::$variant(value) => value.write(to),)*
                    Self::Array(array) => array.write(to),
                }
            }
        }

        $(
            impl From<$t> for Value {
                fn from(v: $t) -> Self { Value::$variant(v) }
            }
            impl From<Vec<$t>> for Value {
                fn from(v: Vec<$t>) -> Self { Value::Array(Array::$variant(v)) }
            }
            impl From<&[$t]> for Value {
                fn from(v: &[$t]) -> Self { Value::Array(Array::$variant(v.to_vec())) }
            }
        )*
    };
}

types! {
    U8 = 0, "u8", u8;
    I8 = 1, "i8", i8;
    U16 = 2, "u16", u16;
    I16 = 3, "i16", i16;
    U32 = 4, "u32", u32;
    I32 = 5, "i32", i32;
    F32 = 6, "f32", f32;
    Bool = 7, "bool", bool;
    String = 8, "str", String;
    U64 = 10, "u64", u64;
    I64 = 11, "i64", i64;
    F64 = 12, "f64", f64;
}

impl From<&str> for Value {
    fn from(v: &str) -> Self {
        Value::String(v.to_owned())
    }
}

impl From<Vec<&str>> for Value {
    fn from(v: Vec<&str>) -> Self {
        Value::Array(Array::String(v.into_iter().map(str::to_owned).collect()))
    }
}

impl From<&[&str]> for Value {
    fn from(v: &[&str]) -> Self {
        v.to_vec().into()
    }
}

impl From<Array> for Value {
    fn from(v: Array) -> Self {
        Value::Array(v)
    }
}

impl Value {
    /// Returns the text of a string value.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(s) => Some(s),
            _ => None,
        }
    }

    /// Returns the number of a `u32` value.
    #[must_use]
    pub(crate) const fn as_u32(&self) -> Option<u32> {
        match self {
            Value::U32(v) => Some(*v),
            _ => None,
        }
    }

    /// Returns any non-negative integer value as a `u64`.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Value::U8(v) => Some(v.into()),
            Value::U16(v) => Some(v.into()),
            Value::U32(v) => Some(v.into()),
            Value::U64(v) => Some(v),
            Value::I8(v) => v.try_into().ok(),
            Value::I16(v) => v.try_into().ok(),
            Value::I32(v) => v.try_into().ok(),
            Value::I64(v) => v.try_into().ok(),
            _ => None,
        }
    }

    /// Returns the strings of an array of strings.
    #[must_use]
    pub fn as_strings(&self) -> Option<&[String]> {
        match self {
            Value::Array(Array::String(v)) => Some(v),
            _ => None,
        }
    }
}
