//! Axes: where a number lies, and which numbers are labelled.

/// The kind of an axis.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Linear,
    /// Linear, of whole numbers such as layers: only they are labelled.
    Whole,
    /// Logarithmic. Numbers that are not positive have no place on it.
    Log,
}

/// An axis from its first pixel to its last.
pub(super) struct Axis {
    kind: Kind,
    /// The ends, as exponents of 10 if the axis is logarithmic.
    ends: [f64; 2],
    pixels: [f64; 2],
}

impl Axis {
    /// Creates an axis that contains all finite `values`, with a margin.
    pub(super) fn new(kind: Kind, values: impl Iterator<Item = f64>, pixels: [f64; 2]) -> Self {
        let [low, high] = extent(kind, values).unwrap_or([0.0, 1.0]);
        let margin = if high > low { 0.04 * (high - low) } else { 0.1 * low.abs().max(1.0) };
        Self { kind, ends: [low - margin, high + margin], pixels }
    }

    /// Creates an axis whose ends are the least and the greatest of the finite `values`.
    pub(super) fn exact(kind: Kind, values: impl Iterator<Item = f64>, pixels: [f64; 2]) -> Self {
        Self { kind, ends: extent(kind, values).unwrap_or([0.0, 1.0]), pixels }
    }

    /// Returns the pixel of a number, or `None` if it has no place on the axis.
    pub(super) fn at(&self, value: f64) -> Option<f64> {
        let [from, to] = self.pixels;
        self.fraction(value).map(|fraction| from + (to - from) * fraction)
    }

    /// Returns how far along the axis a number is: 0 at the first pixel, 1 at the last.
    pub(super) fn fraction(&self, value: f64) -> Option<f64> {
        let [low, high] = self.ends;
        let fraction = if high > low { (scaled(self.kind, value) - low) / (high - low) } else { 0.5 };
        fraction.is_finite().then_some(fraction)
    }

    /// Returns the labelled numbers, ascending, with about `count` steps between the ends.
    pub(super) fn ticks(&self, count: usize) -> Vec<(f64, String)> {
        let [low, high] = self.ends;
        match self.kind {
            Kind::Linear => linear(low, high, step(high - low, count)),
            Kind::Whole => linear(low, high, step(high - low, count).max(1.0)),
            Kind::Log => logarithmic(low, high, count),
        }
    }
}

/// Returns the least and the greatest place, or `None` if there is none.
fn extent(kind: Kind, values: impl Iterator<Item = f64>) -> Option<[f64; 2]> {
    values
        .map(|value| scaled(kind, value))
        .filter(|place| place.is_finite())
        .fold(None, |ends, place| Some(ends.map_or([place; 2], |[low, high]| [place.min(low), place.max(high)])))
}

fn scaled(kind: Kind, value: f64) -> f64 {
    if kind == Kind::Log { value.log10() } else { value }
}

/// Returns the step of 1, 2 or 5 times a power of ten that divides `width` into at most `count` parts.
fn step(width: f64, count: usize) -> f64 {
    let least = width / count.max(1) as f64;
    let power = 10_f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0].into_iter().map(|digit| digit * power).find(|step| *step >= least).unwrap_or(10.0 * power)
}

fn linear(low: f64, high: f64, step: f64) -> Vec<(f64, String)> {
    if !(step.is_finite() && step > 0.0) {
        return vec![(low, label(low, low.abs()))];
    }
    // Whole multiples of the step: additions would gather rounding errors.
    let multiples = (low / step).ceil() as i64..=(high / step).floor() as i64;
    multiples.map(|i| i as f64 * step).map(|value| (value, label(value, step))).collect()
}

/// Labels powers of ten, and if these are few, 2 and 5 times as well. If the axis spans less, labels are as on a linear axis.
fn logarithmic(low: f64, high: f64, count: usize) -> Vec<(f64, String)> {
    let powers = low.floor() as i32..=high.ceil() as i32;
    let of = |digits: &[f64], every: usize| -> Vec<(f64, String)> {
        powers
            .clone()
            .filter(|power| power.rem_euclid(every as i32) == 0)
            .flat_map(|power| digits.iter().map(move |digit| digit * 10_f64.powi(power)))
            .filter(|value| (low..=high).contains(&value.log10()))
            .map(|value| (value, label(value, value)))
            .collect()
    };
    let every = ((high - low) / count.max(1) as f64).ceil().max(1.0) as usize;
    let tens = of(&[1.0], every);
    let more = of(&[1.0, 2.0, 5.0], 1);
    if tens.len() > 2 {
        tens
    } else if more.len() > 2 {
        more
    } else {
        let (least, most) = (10_f64.powf(low), 10_f64.powf(high));
        linear(least, most, step(most - least, count))
    }
}

/// Formats a number with the digits that tell it from its neighbours, which are `step` away.
pub(super) fn label(value: f64, step: f64) -> String {
    let size = value.abs().max(step);
    if value != 0.0 && !(1e-4..1e6).contains(&size) {
        return format!("{value:.0e}");
    }
    let decimals = (-step.log10().floor()).clamp(0.0, 6.0) as usize;
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(kind: Kind, values: &[f64], count: usize) -> Vec<String> {
        Axis::exact(kind, values.iter().copied(), [0.0, 100.0]).ticks(count).into_iter().map(|tick| tick.1).collect()
    }

    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!(labels(Kind::Linear, &[0.0, 1.83], 5), ["0.0", "0.5", "1.0", "1.5"]);
        assert_eq!(labels(Kind::Linear, &[-0.07, 0.972], 6), ["0.0", "0.2", "0.4", "0.6", "0.8"]);
        assert_eq!(labels(Kind::Linear, &[1258.0, 3981.0], 6), ["1500", "2000", "2500", "3000", "3500"]);
    }

    #[test]
    fn layers_are_whole_numbers() {
        assert_eq!(labels(Kind::Whole, &[0.0, 3.0], 10), ["0", "1", "2", "3"]);
        assert_eq!(labels(Kind::Whole, &[0.0, 61.0], 8), ["0", "10", "20", "30", "40", "50", "60"]);
    }

    #[test]
    fn a_logarithmic_axis_has_powers_of_ten_if_it_spans_some() {
        assert_eq!(labels(Kind::Log, &[0.009, 2000.0], 8), ["0.01", "0.1", "1", "10", "100", "1000"]);
        assert_eq!(labels(Kind::Log, &[40.0, 300.0], 8), ["50", "100", "200"]);
        assert_eq!(labels(Kind::Log, &[1258.0, 1981.0], 4), ["1400", "1600", "1800"]);
        assert_eq!(labels(Kind::Log, &[1e-12, 1e12], 5).len(), 5);
    }

    #[test]
    fn numbers_without_a_place_are_left_out() {
        let axis = Axis::exact(Kind::Log, [1.0, 100.0, -3.0, f64::NAN].into_iter(), [0.0, 100.0]);
        assert_eq!(axis.at(10.0), Some(50.0));
        assert_eq!((axis.at(0.0), axis.at(-1.0), axis.at(f64::NAN)), (None, None, None));
        assert_eq!(Axis::new(Kind::Linear, std::iter::empty(), [0.0, 1.0]).ticks(4).len(), 3);
        assert_eq!(Axis::exact(Kind::Linear, [7.0, 7.0].into_iter(), [0.0, 1.0]).ticks(4).len(), 1);
    }
}
