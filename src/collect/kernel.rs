//! The inner loop: adds rows to f32 sums.

/// Rows added between two stores of the sums. With 8, all operands stay in registers with AVX2 and NEON.
const LANES: usize = 8;

/// Adds rows of `data` to the sums of squares and, if given, to the sums of each channel. Each row is `sum2.len()` long
/// and starts at one of `starts`.
///
/// The rows of a channel are added one by one in the order of `starts`. Only this order affects the bits, so a vector
/// register may hold several channels.
pub(super) fn add_rows(sum2: &mut [f32], sum: Option<&mut [f32]>, data: &[f32], starts: &[usize]) {
    match sum {
        Some(sum) => add_both(sum2, sum, data, starts),
        None => add_squares(sum2, data, starts),
    }
}

fn add_both(sum2: &mut [f32], sum: &mut [f32], data: &[f32], starts: &[usize]) {
    let n = sum2.len();
    let sum = &mut sum[..n];
    let (groups, rest) = starts.as_chunks::<LANES>();
    for group in groups {
        let rows = group.map(|start| &data[start..start + n]);
        for j in 0..n {
            let (mut squares, mut plain) = (sum2[j], sum[j]);
            for row in rows {
                let x = row[j];
                squares += x * x; // never mul_add: llama.cpp's tool rounds the square
                plain += x;
            }
            (sum2[j], sum[j]) = (squares, plain);
        }
    }
    for &start in rest {
        let row = &data[start..start + n];
        for j in 0..n {
            let x = row[j];
            sum2[j] += x * x;
            sum[j] += x;
        }
    }
}

fn add_squares(sum2: &mut [f32], data: &[f32], starts: &[usize]) {
    let n = sum2.len();
    for &start in starts {
        for (acc, x) in sum2.iter_mut().zip(&data[start..start + n]) {
            *acc += x * x;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computes the sums row by row, as llama.cpp's tool does.
    fn oracle(n: usize, data: &[f32], starts: &[usize]) -> (Vec<f32>, Vec<f32>) {
        let (mut sum2, mut sum) = (vec![0.25; n], vec![-1.5; n]);
        for &start in starts {
            for j in 0..n {
                let x = data[start + j];
                let square = std::hint::black_box(x * x);
                sum2[j] += square;
                sum[j] += x;
            }
        }
        (sum2, sum)
    }

    #[test]
    fn any_number_of_rows_gives_the_bits_of_adding_row_by_row() {
        let mut state = 1_u32;
        let data: Vec<f32> = (0..37 * 41)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / 1_000_000.0 - 8.0
            })
            .collect();
        for rows in [0, 1, 7, 8, 9, 31, 40] {
            let starts: Vec<usize> = (0..rows).rev().map(|row| row * 37).collect();
            let (want2, want) = oracle(37, &data, &starts);
            let (mut sum2, mut sum) = (vec![0.25; 37], vec![-1.5; 37]);
            add_rows(&mut sum2, Some(&mut sum), &data, &starts);
            assert_eq!((&sum2, &sum), (&want2, &want), "{rows} rows");
            let mut alone = vec![0.25; 37];
            add_rows(&mut alone, None, &data, &starts);
            assert_eq!(alone, want2, "{rows} rows, squares alone");
        }
    }

    #[test]
    fn squares_are_rounded_before_they_are_added() {
        // 1 + 2^-12 squared is 1 + 2^-11 + 2^-24: rounding drops the last bit, a fused operation would keep it.
        let x = 1.0 + f32::EPSILON * 2048.0;
        let mut sum2 = [-1.0];
        add_rows(&mut sum2, None, &[x], &[0]);
        assert_eq!(sum2[0].to_bits(), (f32::EPSILON * 4096.0).to_bits());
    }
}
