//! Fixed-point numbers: three words for a sum of squares, two for a sum.

/// Number of words of a sum of squares.
pub(crate) const SQUARE_WORDS: usize = 3;
/// Number of words of a sum.
pub(crate) const SUM_WORDS: usize = 2;

/// The unit of a sum of squares is 2^-119.
pub(super) const SQUARE_BITS: i32 = 119;
/// The unit of a sum is 2^-59.
pub(super) const SUM_BITS: i32 = 59;

pub(crate) type Square = [i64; SQUARE_WORDS];
pub(crate) type Sum = [i64; SUM_WORDS];

pub(crate) fn squares(words: &[i64]) -> &[Square] {
    words.as_chunks().0
}

pub(super) fn squares_mut(words: &mut [i64]) -> &mut [Square] {
    words.as_chunks_mut().0
}

pub(crate) fn sums(words: &[i64]) -> &[Sum] {
    words.as_chunks().0
}

pub(super) fn sums_mut(words: &mut [i64]) -> &mut [Sum] {
    words.as_chunks_mut().0
}

fn unsigned([low, high]: [i64; 2]) -> u128 {
    u128::from(low as u64) | u128::from(high as u64) << 64
}

fn words(n: u128) -> [i64; 2] {
    [n as i64, (n >> 64) as i64]
}

/// Adds a sum of squares; `None` if the result is negative or exceeds 191 bits.
pub(super) fn add_square(to: &mut Square, more: Square) -> Option<()> {
    let (low, carry) = unsigned([to[0], to[1]]).overflowing_add(unsigned([more[0], more[1]]));
    let top = to[2].checked_add(more[2])?.checked_add(carry.into())?;
    let [w0, w1] = words(low);
    *to = [w0, w1, top];
    (top >= 0).then_some(())
}

/// Adds a sum; `None` if the result exceeds 127 bits.
pub(super) fn add_sum(to: &mut Sum, more: Sum) -> Option<()> {
    let total = (unsigned(*to) as i128).checked_add(unsigned(more) as i128)?;
    *to = words(total as u128);
    Some(())
}

/// Returns `high * 2^90 + low` as words.
pub(super) fn square_from_parts(high: i128, low: i128) -> Square {
    // Both are below 2^97. `high` is shifted by a word (64 bits) and 26 bits.
    let (high, low) = ((high << 26) as u128, low as u128);
    let sign = (low as i128 >> 127) as i64;
    let (middle, carry) = ((low >> 64) as u64).overflowing_add(high as u64);
    let top = ((high >> 64) as i64).wrapping_add(sign).wrapping_add(carry.into());
    [low as i64, middle as i64, top]
}

pub(super) fn sum_from_parts(total: i128) -> Sum {
    words(total as u128)
}

/// Rounds a sum of squares to the nearest f32, ties to even.
pub(crate) fn square_to_f32(n: Square) -> f32 {
    if n[2] == 0 {
        return unsigned([n[0], n[1]]) as f32 * power_of_two(-SQUARE_BITS);
    }
    // The upper two words have at least 65 significant bits, so the lowest bit can serve as a sticky bit for the word that
    // is cut off.
    let cut = u128::from(n[0] != 0);
    (unsigned([n[1], n[2]]) | cut) as f32 * power_of_two(64 - SQUARE_BITS)
}

/// Rounds a sum of squares to f64, with an error of at most `2^-52` of it.
pub(crate) fn square_to_f64(n: Square) -> f64 {
    const TWO_TO_64: f64 = 18_446_744_073_709_551_616.0;
    let upper = n[2] as f64 * TWO_TO_64 * TWO_TO_64;
    (upper + unsigned([n[0], n[1]]) as f64) * f64::from(power_of_two(-SQUARE_BITS))
}

/// Rounds a sum to the nearest f32, ties to even.
pub(crate) fn sum_to_f32(n: Sum) -> f32 {
    unsigned(n) as i128 as f32 * power_of_two(-SUM_BITS)
}

/// Converts an f32 to a sum of squares; `None` unless it is finite, not negative and below 2^71.
pub(crate) fn square_from_f32(x: f32) -> Option<Square> {
    let (mantissa, exponent) = parts(x).filter(|&(mantissa, _)| mantissa >= 0)?;
    match exponent + SQUARE_BITS {
        shift @ ..0 => Some([round_shift(mantissa, -shift), 0, 0]),
        // As `high * 2^90 + low`; the mantissa has 24 bits and the sum at most 191.
        shift @ 0..90 => {
            let n = i128::from(mantissa) << shift;
            Some(square_from_parts(n >> 90, n & ((1 << 90) - 1)))
        }
        shift @ 90..167 => Some(square_from_parts(i128::from(mantissa) << (shift - 90), 0)),
        _ => (mantissa == 0).then_some([0; 3]),
    }
}

/// Converts an f32 to a sum; `None` unless it is finite and smaller than 2^67 in size.
pub(crate) fn sum_from_f32(x: f32) -> Option<Sum> {
    let (mantissa, exponent) = parts(x)?;
    match exponent + SUM_BITS {
        shift @ ..0 => Some(words(i128::from(round_shift(mantissa, -shift)) as u128)),
        shift @ 0..103 => Some(words((i128::from(mantissa) << shift) as u128)),
        _ => (mantissa == 0).then_some([0; 2]),
    }
}

/// Splits `x = mantissa * 2^exponent`; `None` unless `x` is finite.
fn parts(x: f32) -> Option<(i64, i32)> {
    let bits = x.to_bits();
    let (field, fraction) = ((bits >> 23 & 0xff) as i32, i64::from(bits & 0x7f_ffff));
    let size = if field == 0 { fraction } else { fraction | 1 << 23 };
    x.is_finite().then_some((if x.is_sign_negative() { -size } else { size }, field.max(1) - 150))
}

/// Rounds `n / 2^by` to the nearest integer, ties to even. `n` has at most 24 bits.
fn round_shift(n: i64, by: i32) -> i64 {
    if by > 40 {
        return 0;
    }
    // The product is exact in f64.
    (n as f64 * f64::from(power_of_two(-by))).round_ties_even() as i64
}

/// Returns a power of two in the range of normal numbers.
const fn power_of_two(exponent: i32) -> f32 {
    f32::from_bits(((exponent + 127) as u32) << 23)
}
