//! The numbers of an entry: owned, in the bytes of a file, or a sum of these that is computed on reading.
//!
//! The matrix of a large model takes gigabytes. Merging, conversion and statistics read files in blocks and never copy a
//! whole matrix.

use crate::gguf::F32Source;

/// Storage for the sums of an [`Entry`](super::Entry).
pub trait Values {
    /// Returns the number of values.
    fn len(&self) -> usize;

    /// Returns true if there are no values.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns a view of the values.
    fn numbers(&self) -> Numbers<'_>;
}

/// Values in one piece, which can be added to others.
pub trait Ready: Values {
    /// Returns a view of the values.
    fn slice(&self) -> Slice<'_>;
}

/// Values that support addition.
pub trait Sum<'a>: Values {
    /// Creates `len` zeros.
    fn zeros(len: usize) -> Self;

    /// Adds `more` times `factor` elementwise, in single precision.
    fn add(&mut self, more: Slice<'a>, factor: f32);
}

/// Borrowed numbers in one piece.
#[derive(Clone, Copy, Debug)]
pub enum Slice<'a> {
    /// In memory.
    Memory(&'a [f32]),
    /// In the bytes of a file: little-endian, not aligned.
    File(&'a [[u8; 4]]),
}

/// Borrowed numbers, in one piece or as a sum of pieces that is computed on reading.
#[derive(Clone, Debug, Default)]
pub struct Numbers<'a> {
    len: usize,
    /// First summand; `None` for zeros.
    first: Option<Slice<'a>>,
    /// Further summands and their factors: each is multiplied, then added, in this order.
    added: Vec<(Slice<'a>, f32)>,
}

impl<'a> Slice<'a> {
    /// Views the bytes of a file as f32. Up to three surplus bytes at the end are ignored.
    pub(super) fn of_bytes(bytes: &'a [u8]) -> Self {
        Self::File(bytes.as_chunks().0)
    }

    /// Returns the number of values.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Memory(numbers) => numbers.len(),
            Self::File(numbers) => numbers.len(),
        }
    }

    /// Calls `f` for each element of `into` with the corresponding number from `at` on.
    fn zip(&self, at: usize, into: &mut [f32], f: impl Fn(&mut f32, f32)) {
        match self {
            Self::Memory(numbers) => {
                let here = numbers.get(at..).unwrap_or_default();
                into.iter_mut().zip(here).for_each(|(to, &x)| f(to, x));
            }
            Self::File(numbers) => {
                let here = numbers.get(at..).unwrap_or_default();
                into.iter_mut().zip(here).for_each(|(to, &x)| f(to, f32::from_le_bytes(x)));
            }
        }
    }
}

impl<'a> From<Slice<'a>> for Numbers<'a> {
    fn from(slice: Slice<'a>) -> Self {
        Self { len: slice.len(), first: Some(slice), added: Vec::new() }
    }
}

impl Numbers<'_> {
    /// Fills `into` with the numbers from `at` on.
    pub(crate) fn read(&self, at: usize, into: &mut [f32]) {
        match self.first {
            Some(first) => first.zip(at, into, |to, x| *to = x),
            None => into.fill(0.0),
        }
        for &(more, factor) in &self.added {
            if factor.to_bits() == 1.0_f32.to_bits() {
                more.zip(at, into, |to, x| *to += x);
            } else {
                more.zip(at, into, |to, x| *to += x * factor);
            }
        }
    }

    /// Returns all numbers.
    #[must_use]
    pub(crate) fn to_vec(&self) -> Vec<f32> {
        let mut all = vec![0.0; self.len];
        self.read(0, &mut all);
        all
    }
}

impl F32Source for Numbers<'_> {
    fn len(&self) -> usize {
        self.len
    }

    fn read(&self, at: usize, into: &mut [f32]) {
        Numbers::read(self, at, into);
    }
}

impl Values for Vec<f32> {
    fn len(&self) -> usize {
        self.as_slice().len()
    }

    fn numbers(&self) -> Numbers<'_> {
        Slice::Memory(self).into()
    }
}

impl Values for Slice<'_> {
    fn len(&self) -> usize {
        Slice::len(self)
    }

    fn numbers(&self) -> Numbers<'_> {
        (*self).into()
    }
}

impl Values for Numbers<'_> {
    fn len(&self) -> usize {
        self.len
    }

    fn numbers(&self) -> Numbers<'_> {
        self.clone()
    }
}

impl Ready for Vec<f32> {
    fn slice(&self) -> Slice<'_> {
        Slice::Memory(self)
    }
}

impl Ready for Slice<'_> {
    fn slice(&self) -> Slice<'_> {
        *self
    }
}

impl<'a> Sum<'a> for Vec<f32> {
    fn zeros(len: usize) -> Self {
        vec![0.0; len]
    }

    fn add(&mut self, more: Slice<'a>, factor: f32) {
        more.zip(0, self, |to, x| *to += x * factor); // x * 1 is x
    }
}

impl<'a> Sum<'a> for Numbers<'a> {
    fn zeros(len: usize) -> Self {
        Self { len, ..Self::default() }
    }

    fn add(&mut self, more: Slice<'a>, factor: f32) {
        self.added.push((more, factor));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_computed_on_reading_have_the_bits_of_owned_sums() {
        let (a, b) = ([-0.0_f32, 1.0, 1e8, f32::MIN_POSITIVE], [-0.0_f32, 0.1, 3.3, 0.7]);
        let bytes: Vec<u8> = b.iter().flat_map(|x| x.to_le_bytes()).collect();
        let parts = [(Slice::Memory(&a), 1.0), (Slice::of_bytes(&bytes), 512.0), (Slice::of_bytes(&bytes), 1.0)];
        let (mut owned, mut lazy) = (Vec::zeros(4), Numbers::zeros(4));
        for (part, factor) in parts {
            owned.add(part, factor);
            Sum::add(&mut lazy, part, factor);
        }
        let bits = |numbers: &[f32]| numbers.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&lazy.to_vec()), bits(&owned));
        assert_eq!(owned[0].to_bits(), 0.0_f32.to_bits(), "added to a zero, not copied");
        let mut window = [0.0; 2];
        lazy.read(2, &mut window);
        assert_eq!(bits(&window), bits(&owned[2..]));
        assert_eq!(bits(&Numbers::from(Slice::Memory(&a)).to_vec()), bits(&a));
    }
}
