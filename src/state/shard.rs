//! Parts of one run, for several machines.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

/// The part of a run's chunks that this process evaluates: part `index` of `count`, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    index: u32,
    count: u32,
}

/// An invalid shard, or an environment without one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ShardError(String);

impl Shard {
    /// The whole run: shard 0 of 1.
    pub const WHOLE: Self = Self { index: 0, count: 1 };

    /// Creates shard `index` of `count`.
    ///
    /// # Errors
    /// If `index` is not below `count`, or `count` exceeds 32 bits.
    pub fn new(index: u64, count: u64) -> Result<Self, ShardError> {
        let fits = || Some((u32::try_from(index).ok()?, u32::try_from(count).ok()?));
        match fits() {
            Some((index, count)) if index < count => Ok(Self { index, count }),
            _ => Err(ShardError(format!("shard {index} of {count} does not exist: shards are counted from 0"))),
        }
    }

    /// Returns the index of the shard, from 0.
    #[must_use]
    pub const fn index(self) -> u32 {
        self.index
    }

    /// Returns the number of shards.
    #[must_use]
    pub const fn count(self) -> u32 {
        self.count
    }

    /// Returns true if the shard is the whole run.
    #[must_use]
    pub const fn is_whole(self) -> bool {
        self.count == 1
    }

    /// Returns the shard's chunks of `n_chunks`, if `per_batch` chunks are evaluated together. Batches are not split,
    /// so each chunk is evaluated with the same others as in one run. Shards differ by at most one batch; some may be
    /// empty.
    #[must_use]
    pub(crate) fn range(self, n_chunks: u64, per_batch: u64) -> Range<u64> {
        let per_batch = per_batch.max(1);
        let batches = u128::from(n_chunks.div_ceil(per_batch));
        let start = |index: u32| {
            let batch = (batches * u128::from(index) / u128::from(self.count)) as u64;
            batch.saturating_mul(per_batch).min(n_chunks)
        };
        start(self.index)..start(self.index + 1)
    }

    /// Returns the shard of this process in a Slurm array job or a Kubernetes indexed Job. `env` looks up a variable.
    ///
    /// Slurm sets `SLURM_ARRAY_TASK_ID`, `SLURM_ARRAY_TASK_COUNT`, `_MIN`, `_MAX` and `_STEP`. Kubernetes sets only
    /// `JOB_COMPLETION_INDEX`: the manifest must set `JOB_COMPLETIONS` to the Job's `completions`.
    ///
    /// # Errors
    /// See [`ShardError`].
    pub fn auto(env: impl Fn(&str) -> Option<String>) -> Result<Self, ShardError> {
        const TASK: &str = "SLURM_ARRAY_TASK_ID";
        const POD: &str = "JOB_COMPLETION_INDEX";
        let number = |name: &'static str| match env(name) {
            None => Ok(None),
            Some(value) => {
                let wrong = || ShardError(format!("{name} is '{value}', not a whole number"));
                value.trim().parse::<u64>().map(Some).map_err(|_| wrong())
            }
        };
        let required = |present: &str, missing: &'static str, hint: &str| {
            number(missing)?.ok_or_else(|| ShardError(format!("{present} is set, {missing} is not; hint: {hint}")))
        };
        if let Some(id) = number(TASK)? {
            let count = required(TASK, "SLURM_ARRAY_TASK_COUNT", "use --shard I/N")?;
            let min = number("SLURM_ARRAY_TASK_MIN")?.unwrap_or(0);
            let step = number("SLURM_ARRAY_TASK_STEP")?.unwrap_or(1).max(1);
            let uneven = ShardError(format!(
                "the Slurm array's tasks are not evenly spaced (task {id} of {count} from {min} in steps of {step}); \
                 hint: use --shard I/N"
            ));
            // For an array such as 1,2,7 the count does not follow from the first and last task.
            let spread = number("SLURM_ARRAY_TASK_MAX")?.map(|max| max.checked_sub(min).map(|width| width / step));
            let offset = id.checked_sub(min).filter(|offset| offset.is_multiple_of(step));
            return match (offset, spread) {
                (Some(offset), None) => Self::new(offset / step, count),
                (Some(offset), Some(Some(last))) if last.checked_add(1) == Some(count) => {
                    Self::new(offset / step, count)
                }
                _ => Err(uneven),
            };
        }
        match number(POD)? {
            None => Err(ShardError(
                "--shard auto finds neither SLURM_ARRAY_TASK_ID nor JOB_COMPLETION_INDEX in the environment; hint: start \
                 it from a Slurm array job or a Kubernetes indexed Job, or use --shard I/N"
                    .to_owned(),
            )),
            Some(index) => {
                let hint = "set it in the manifest to the Job's completions";
                Self::new(index, required(POD, "JOB_COMPLETIONS", hint)?)
            }
        }
    }
}

/// Parses `I/N`.
impl FromStr for Shard {
    type Err = ShardError;

    fn from_str(s: &str) -> Result<Self, ShardError> {
        let number = |s: &str| s.bytes().all(|b| b.is_ascii_digit()).then(|| s.parse().ok()).flatten();
        let parts = s.split_once('/').and_then(|(index, count)| Some((number(index)?, number(count)?)));
        let (index, count) = parts
            .ok_or_else(|| ShardError(format!("shard '{s}' is not I/N or auto, as in 0/4 for the first of four")))?;
        Self::new(index, count)
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_cover_every_chunk_once_and_keep_batches_whole() {
        for (n_chunks, per_batch, count) in [(10, 1, 4), (10, 4, 3), (3, 1, 5), (0, 1, 2), (1000, 7, 9), (5, 8, 2)] {
            let shares: Vec<_> = (0..count).map(|i| Shard::new(i, count).unwrap().range(n_chunks, per_batch)).collect();
            assert_eq!((shares[0].start, shares.last().unwrap().end), (0, n_chunks));
            assert!(shares.windows(2).all(|pair| pair[0].end == pair[1].start));
            assert!(shares.iter().all(|share| share.start % per_batch == 0 || share.start == n_chunks));
            let batches = shares.iter().map(|share| (share.end - share.start).div_ceil(per_batch));
            assert!(batches.clone().max().unwrap() - batches.min().unwrap() <= 1, "{shares:?}");
        }
        assert_eq!(Shard::WHOLE.range(17, 4), 0..17);
        assert_eq!(Shard::new(u64::from(u32::MAX) - 1, u32::MAX.into()).unwrap().range(u64::MAX, 1).end, u64::MAX);
    }

    #[test]
    fn shards_are_written_as_a_fraction() {
        assert_eq!("2/4".parse(), Shard::new(2, 4));
        assert_eq!(Shard::new(2, 4).unwrap().to_string(), "2/4");
        for bad in ["", "1", "/", "1/", "/2", "-1/2", "+1/2", "1/2/3", "a/b", "1 / 2", "0/99999999999999999999"] {
            assert!(bad.parse::<Shard>().unwrap_err().0.starts_with(&format!("shard '{bad}' is not I/N")));
        }
        for (bad, index, count) in [("4/4", 4, 4), ("0/0", 0, 0), ("0/4294967296", 0, 1_u64 << 32)] {
            let error = bad.parse::<Shard>().unwrap_err().0;
            assert!(error.starts_with(&format!("shard {index} of {count} does not exist")), "{error}");
        }
    }

    #[test]
    fn auto_reads_the_shard_from_slurm_and_kubernetes() {
        let auto = |vars: &[(&str, &str)]| {
            Shard::auto(|name| vars.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned()))
        };
        let slurm = |id, count, min, max, step| {
            auto(&[
                ("SLURM_ARRAY_TASK_ID", id),
                ("SLURM_ARRAY_TASK_COUNT", count),
                ("SLURM_ARRAY_TASK_MIN", min),
                ("SLURM_ARRAY_TASK_MAX", max),
                ("SLURM_ARRAY_TASK_STEP", step),
                ("JOB_COMPLETION_INDEX", "9"), // Slurm's variables take precedence
            ])
        };
        assert_eq!(slurm("0", "4", "0", "3", "1"), Shard::new(0, 4));
        assert_eq!(slurm("4", "4", "1", "4", "1"), Shard::new(3, 4)); // --array=1-4
        assert_eq!(slurm("12", "3", "4", "12", "4"), Shard::new(2, 3)); // --array=4-12:4
        assert_eq!(slurm("12", "3", "4", "13", "4"), Shard::new(2, 3)); // --array=4-13:4, if 13 is the maximum
        let uneven = |shard: Result<Shard, ShardError>, id: &str| {
            shard.unwrap_err().0.contains(&format!("spaced (task {id} of 3"))
        };
        assert!(uneven(slurm("2", "3", "1", "7", "1"), "2")); // --array=1,2,7
        assert!(uneven(slurm("5", "3", "4", "12", "4"), "5"));
        assert!(uneven(slurm("0", "3", "4", "12", "4"), "0"));
        assert_eq!(auto(&[("SLURM_ARRAY_TASK_ID", "1"), ("SLURM_ARRAY_TASK_COUNT", "2")]), Shard::new(1, 2));
        let missing = auto(&[("SLURM_ARRAY_TASK_ID", "1")]).unwrap_err().to_string();
        assert!(missing.starts_with("SLURM_ARRAY_TASK_ID is set, SLURM_ARRAY_TASK_COUNT is not"), "{missing}");

        assert_eq!(auto(&[("JOB_COMPLETION_INDEX", "3"), ("JOB_COMPLETIONS", "8")]), Shard::new(3, 8));
        let says = |vars: &[(&str, &str)]| auto(vars).unwrap_err().0;
        assert!(says(&[("JOB_COMPLETION_INDEX", "3")]).contains("is set, JOB_COMPLETIONS is not"));
        assert!(says(&[("JOB_COMPLETION_INDEX", "x")]).ends_with("'x', not a whole number"));
        assert!(says(&[]).starts_with("--shard auto finds neither"));
    }
}
