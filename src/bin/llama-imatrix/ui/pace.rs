//! Speed and remaining time of a run, from the tokens that it has evaluated.
//!
//! The first batch is slower than the rest: pages are read, and only one lane works. In a batch the second half of each
//! chunk costs more than the first, because perplexity needs its logits. So the speed is measured over the last half of the
//! time at least, and from the end of a batch.

use std::collections::VecDeque;
use std::time::Duration;

/// Before this much time there is no estimate.
const LEAST_TIME: Duration = Duration::from_millis(500);
/// Without a complete batch, an estimate needs this part of the tokens.
const LEAST_PART: f64 = 0.02;

/// Progress of a run over time. Times count from the start of the evaluation.
#[derive(Debug)]
pub(crate) struct Pace {
    total: u64,
    /// Start and ends of batches: when, and the tokens evaluated until then. The first is the one to measure from.
    marks: VecDeque<(Duration, u64)>,
    /// Tokens at the start, which an earlier run evaluated.
    before: u64,
    has_batch: bool,
    /// When the tokens changed last, and their number.
    last: (Duration, u64),
    /// Largest number of tokens by which they changed at once.
    step: u64,
}

impl Pace {
    /// A run of `total` tokens, of which `before` are done.
    pub(crate) fn new(total: u64, before: u64) -> Self {
        let start = (Duration::ZERO, before);
        Self { total, marks: VecDeque::from([start]), before, has_batch: false, last: start, step: 0 }
    }

    /// Notes the tokens evaluated until now.
    pub(crate) fn observe(&mut self, now: Duration, done: u64) {
        if done < self.last.1 {
            // The run went back to a checkpoint.
            self.marks = VecDeque::from([(now, done)]);
            self.before = done;
            self.has_batch = false;
        }
        if done != self.last.1 {
            self.step = self.step.max(done.saturating_sub(self.last.1));
            self.last = (now, done);
        }
        while self.marks.get(1).is_some_and(|(time, _)| *time <= now / 2) {
            self.marks.pop_front();
        }
    }

    /// Notes the end of a batch.
    pub(crate) fn end_batch(&mut self, now: Duration, done: u64) {
        self.observe(now, done);
        self.marks.push_back((now, done));
        self.has_batch = true;
    }

    /// Part of the tokens that is done, from 0 to 1.
    pub(crate) fn part(&self) -> f64 {
        if self.total == 0 { 1.0 } else { (self.last.1 as f64 / self.total as f64).min(1.0) }
    }

    /// Tokens per second; `None` as long as there is too little to measure.
    pub(crate) fn speed(&self) -> Option<f64> {
        let (now, done) = self.last;
        let since_start = done.saturating_sub(self.before) as f64;
        let enough = self.has_batch || since_start >= LEAST_PART * self.total.saturating_sub(self.before) as f64;
        let (time, tokens) = *self.marks.front()?;
        let (seconds, tokens) = (now.saturating_sub(time).as_secs_f64(), done.saturating_sub(tokens) as f64);
        (enough && now >= LEAST_TIME && tokens > 0.0 && seconds > 0.0).then(|| tokens / seconds)
    }

    /// Remaining time; `None` as long as there is no speed.
    pub(crate) fn left(&self, now: Duration) -> Option<Duration> {
        let speed = self.speed()?;
        let (time, done) = self.last;
        // Between two changes the time runs down, by no more than the next change is expected to take.
        let waited = now.saturating_sub(time).as_secs_f64().min(self.step as f64 / speed);
        let left = self.total.saturating_sub(done) as f64 / speed - waited;
        Some(Duration::try_from_secs_f64(left.max(0.0)).unwrap_or(Duration::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: f64) -> Duration {
        Duration::from_secs_f64(n)
    }

    /// Simulates a run in micro-batches, sampled every 0.2 seconds, and returns estimates with the truth.
    fn simulate(n_batches: usize, cost: impl Fn(usize, usize) -> f64) -> Vec<(f64, Option<f64>, f64)> {
        const MICRO: u64 = 512;
        const PER_BATCH: usize = 4;
        let mut ends = Vec::new();
        let mut now = 0.0;
        for batch in 0..n_batches {
            for micro in 0..PER_BATCH {
                now += cost(batch, micro);
                ends.push(now);
            }
        }
        let total = now;
        let mut pace = Pace::new(ends.len() as u64 * MICRO, 0);
        let mut out = Vec::new();
        let (mut done, mut tick) = (0, 0.0);
        while tick < total {
            while done < ends.len() && ends[done] <= tick {
                done += 1;
                if done % PER_BATCH == 0 {
                    pace.end_batch(seconds(ends[done - 1]), done as u64 * MICRO);
                }
            }
            pace.observe(seconds(tick), done as u64 * MICRO);
            out.push((tick / total, pace.left(seconds(tick)).map(|left| left.as_secs_f64()), total - tick));
            tick += 0.2;
        }
        out
    }

    /// The promise: within 20 % of the truth from a tenth of the run on. Near the end a hundredth of the run is as good.
    fn check(name: &str, run: &[(f64, Option<f64>, f64)]) {
        for (part, left, truth) in run.iter().filter(|(part, ..)| *part >= 0.1) {
            let left = left.unwrap_or_else(|| panic!("{name}: no estimate at {part}"));
            let error = (left - truth).abs();
            assert!(
                error <= (0.2 * truth).max(0.01 * truth / (1.0 - part)),
                "{name}: at {part:.2} {left:.1} s, in truth {truth:.1} s"
            );
        }
    }

    #[test]
    fn estimates_are_within_a_fifth_from_a_tenth_of_the_run_on() {
        check("even", &simulate(40, |_, _| 0.5));
        check("the second half of a chunk costs more", &simulate(40, |_, micro| if micro < 2 { 0.4 } else { 0.6 }));
        check("the first batch is slow", &simulate(60, |batch, _| if batch == 0 { 1.5 } else { 0.5 }));
        check("few batches of a large model", &simulate(10, |_, micro| if micro < 2 { 20.0 } else { 25.0 }));
    }

    #[test]
    fn there_is_no_estimate_before_there_is_something_to_measure() {
        let mut pace = Pace::new(100_000, 0);
        pace.observe(seconds(5.0), 0);
        assert_eq!((pace.speed(), pace.left(seconds(5.0))), (None, None));
        pace.observe(seconds(6.0), 512); // less than a batch, and less than a fiftieth
        assert_eq!(pace.speed(), None);
        pace.end_batch(seconds(20.0), 2048);
        assert!(pace.speed().is_some());
    }

    #[test]
    fn the_time_left_runs_down_between_micro_batches_and_does_not_reach_zero_too_early() {
        let mut pace = Pace::new(4096, 0);
        pace.observe(seconds(60.0), 1024);
        pace.observe(seconds(120.0), 2048);
        let left = |now| pace.left(seconds(now)).unwrap().as_secs_f64().round() as u64;
        assert_eq!([left(120.0), left(150.0), left(180.0)], [120, 90, 60]);
        assert_eq!(left(1000.0), 60, "a worker that stands still brings no end nearer");
    }

    #[test]
    fn a_resumed_run_counts_what_is_done_and_measures_what_it_does() {
        let mut pace = Pace::new(10_000, 9000);
        assert!((pace.part() - 0.9).abs() < 1e-9);
        pace.end_batch(seconds(10.0), 9500);
        assert_eq!(pace.speed(), Some(50.0));
        assert_eq!(pace.left(seconds(10.0)), Some(seconds(10.0)));
    }

    #[test]
    fn a_step_back_to_a_checkpoint_starts_the_measurement_again() {
        let mut pace = Pace::new(10_000, 0);
        pace.end_batch(seconds(10.0), 5000);
        pace.observe(seconds(11.0), 4000);
        assert_eq!(pace.speed(), None);
        pace.end_batch(seconds(21.0), 5000);
        assert_eq!(pace.speed(), Some(100.0));
    }
}
