//! The inner loop: adds rows to exact sums by floating-point additions that never round.
//!
//! The rows of a block are summed in doubles that serve as fixed-point numbers. An accumulator starts at 1.5 * 2^(52+g) and
//! stays between 2^(52+g) and 2^(53+g), so its values are multiples of 2^g: its grid. Adding a term extracts the nearest
//! multiple of 2^g from it. The remainder is exact and goes to the next accumulator, whose g is 45 lower. The last
//! accumulator takes the remainder rounded to its grid. This is the extraction of Rump, Ogita and Oishi (Accurate
//! floating-point summation, 2008) and of Demmel and Nguyen (Parallel reproducible summation, 2015), with grids that do not
//! depend on the terms. After a block the mantissas of the accumulators are integers, which are added to the words.
//!
//! The order of the rows has no effect: together, the accumulators hold exactly the terms minus what the last rounding cut
//! off. The multiple that an upper accumulator extracts depends on its value only at a tie. The remainder then changes by
//! an even multiple of the last grid, so the same amount is cut off.

use super::OutOfRange;
use super::fixed::{
    SQUARE_BITS, SQUARE_WORDS, SUM_BITS, SUM_WORDS, add_square, add_sum, square_from_parts, squares_mut,
    sum_from_parts, sums_mut,
};

/// Difference in g from one accumulator to the next.
const STEP: i32 = 45;
/// Rows per block. A row adds at most half a unit of the next coarser grid, which is 2^44 units. 64 rows stay below 2^51, the
/// distance an accumulator may move.
const BLOCK: usize = 64;
/// Rows added between two stores of the accumulators.
const GROUP: usize = 4;
/// Channels processed together: their accumulators fit in the L1 cache.
const TILE: usize = 64;
/// Largest valid Σ x² of a block, in units of the coarsest grid (2^16). Beyond it, single terms or Σ x (in a block at most
/// 8 √Σ x²) could exceed the range of their accumulators.
const MOST: i64 = 1 << 50;

const SQUARE_BIAS: [f64; 4] =
    [bias(3 * STEP - SQUARE_BITS), bias(2 * STEP - SQUARE_BITS), bias(STEP - SQUARE_BITS), bias(-SQUARE_BITS)];
const SUM_BIAS: [f64; 2] = [bias(STEP - SUM_BITS), bias(-SUM_BITS)];

/// Returns 1.5 * 2^(52 + grid), the start of an accumulator.
const fn bias(grid: i32) -> f64 {
    f64::from_bits(((1023 + 52 + grid) as u64) << 52 | 1 << 51)
}

/// Adds rows of `data` to the sums of squares and, if given, to the sums. Each row is `sum2.len() / 3` long and starts at one
/// of `starts`.
///
/// # Errors
/// [`OutOfRange`]. The sums must not be used then.
///
/// # Panics
/// If a row is out of bounds, or the numbers of sums and sums of squares differ.
pub(super) fn add_rows(
    sum2: &mut [i64],
    sum: Option<&mut [i64]>,
    data: &[f32],
    starts: &[usize],
) -> Result<(), OutOfRange> {
    match sum {
        Some(sum) => {
            assert_eq!(sum.len() / SUM_WORDS, sum2.len() / SQUARE_WORDS, "numbers of sums and sums of squares");
            add_tiles::<true>(sum2, sum, data, starts)
        }
        None => add_tiles::<false>(sum2, &mut [], data, starts),
    }
}

fn add_tiles<const WITH_SUM: bool>(
    sum2: &mut [i64],
    sum: &mut [i64],
    data: &[f32],
    starts: &[usize],
) -> Result<(), OutOfRange> {
    let sums = sums_mut(sum);
    for (i, squares) in squares_mut(sum2).chunks_mut(TILE).enumerate() {
        let from = i * TILE;
        let width = squares.len();
        for block in starts.chunks(BLOCK) {
            let mut tile = Tile::new();
            tile.add::<WITH_SUM>(data, block, from, width);
            for (j, to) in squares.iter_mut().enumerate() {
                let block_sum = tile.square(j).ok_or(OutOfRange { channel: from + j })?;
                add_square(to, block_sum).ok_or(OutOfRange { channel: from + j })?;
            }
            if WITH_SUM {
                for (j, to) in sums[from..from + width].iter_mut().enumerate() {
                    add_sum(to, tile.sum(j)).ok_or(OutOfRange { channel: from + j })?;
                }
            }
        }
    }
    Ok(())
}

/// The accumulators of adjacent channels.
struct Tile {
    squares: [[f64; TILE]; 4],
    sums: [[f64; TILE]; 2],
}

impl Tile {
    fn new() -> Self {
        Self { squares: SQUARE_BIAS.map(|bias| [bias; TILE]), sums: SUM_BIAS.map(|bias| [bias; TILE]) }
    }

    fn add<const WITH_SUM: bool>(&mut self, data: &[f32], starts: &[usize], from: usize, width: usize) {
        let row = |start: usize| &data[start + from..][..width];
        let (groups, rest) = starts.as_chunks::<GROUP>();
        for group in groups {
            self.add_group::<WITH_SUM, GROUP>(group.map(row), width);
        }
        for &start in rest {
            self.add_group::<WITH_SUM, 1>([row(start)], width);
        }
    }

    #[inline]
    fn add_group<const WITH_SUM: bool, const N: usize>(&mut self, rows: [&[f32]; N], width: usize) {
        let width = width.min(TILE); // known to the compiler: no check in the loop
        let rows = rows.map(|row| &row[..width]);
        let [s0, s1, s2, s3] = &mut self.squares;
        let [p0, p1] = &mut self.sums;
        for j in 0..width {
            let (mut squares, mut sums) = ([s0[j], s1[j], s2[j], s3[j]], [p0[j], p1[j]]);
            for row in rows {
                let x = f64::from(row[j]);
                squares = add(squares, SQUARE_BIAS[3], x * x); // exact: 48 of 53 bits
                if WITH_SUM {
                    sums = add(sums, SUM_BIAS[1], x);
                }
            }
            [s0[j], s1[j], s2[j], s3[j]] = squares;
            [p0[j], p1[j]] = sums;
        }
    }

    /// Returns Σ x² of channel `j`; `None` if it is out of range or not finite.
    fn square(&self, j: usize) -> Option<[i64; SQUARE_WORDS]> {
        let units = |k: usize| units(self.squares[k][j], SQUARE_BIAS[k]);
        // NaN and numbers with another exponent are far from the bias in bits, too. A sum that is too large stays too large,
        // since nothing is subtracted.
        let top = units(0);
        if !(0..=MOST).contains(&top) {
            return None;
        }
        let join = |high: i64, low: i64| (i128::from(high) << STEP) + i128::from(low);
        Some(square_from_parts(join(top, units(1)), join(units(2), units(3))))
    }

    /// Returns Σ x of channel `j`, which is in range if [`square`](Self::square) is.
    fn sum(&self, j: usize) -> [i64; SUM_WORDS] {
        let units = |k: usize| units(self.sums[k][j], SUM_BIAS[k]);
        sum_from_parts((i128::from(units(0)) << STEP) + i128::from(units(1)))
    }
}

/// Splits `term` over the accumulators.
#[inline(always)]
#[allow(clippy::inline_always)] // a call would prevent vectorization
fn add<const N: usize>(mut accumulators: [f64; N], last_bias: f64, term: f64) -> [f64; N] {
    let mut rest = term;
    for accumulator in &mut accumulators[..N - 1] {
        let sum = *accumulator + rest;
        rest -= sum - *accumulator;
        *accumulator = sum;
    }
    // Rounded separately, since the accumulator's value must not decide a tie.
    accumulators[N - 1] += (rest + last_bias) - last_bias;
    accumulators
}

/// Returns the distance of an accumulator from its start, in units of its grid.
fn units(accumulator: f64, bias: f64) -> i64 {
    (accumulator.to_bits() as i64).wrapping_sub(bias.to_bits() as i64)
}
