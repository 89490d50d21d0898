//! Flags of threads: their number, CPUs and priority.

use llama_imatrix::options::Numa;

use super::choices::{Choice as _, CpuProducts};
use super::lowargs::{Cpu, Flags};
use super::table::{Checked, Flag, Set};

/// Most CPUs in a mask: ggml's `GGML_MAX_N_THREADS`.
const MAX_CPUS: usize = 512;
/// Digits of a mask that count. Further digits are dropped, as in llama.cpp.
const MAX_DIGITS: usize = MAX_CPUS / 4;

pub(super) static FLAGS: &[Flag] = &[
    Flag::int(&["-t", "--threads"], "CPU threads; all for a number below 1 (one per core)", |flags, n| {
        flags.cpu.threads = Some(n);
        Ok(())
    })
    .env("LLAMA_ARG_THREADS")
    .same_bits(),
    Flag::int(&["-tb", "--threads-batch"], "CPU threads for batches (as --threads)", |flags, n| {
        flags.cpu_batch.threads = Some(n);
        Ok(())
    })
    .same_bits(),
    mask(&["-C", "--cpu-mask"], "CPUs to run on, as a hexadecimal mask (all)", |flags, value| {
        add_mask(&mut flags.cpu, value)
    }),
    range(&["-Cr", "--cpu-range"], "CPUs to run on, first and last; added to --cpu-mask", |flags, value| {
        add_range(&mut flags.cpu, value)
    }),
    strict(&["--cpu-strict"], "Pin each thread to one CPU (0)", |flags, value| {
        flags.cpu.strict = Some(value != 0);
        Ok(())
    }),
    Flag::int(
        &["--prio"],
        "Priority of the process and its threads: -1 low, 0 normal, 1 medium, 2 high, 3 realtime (0)",
        |flags, n| set_prio(&mut flags.cpu, n, -1),
    )
    .same_bits(),
    poll(&["--poll"], "How long a thread polls for work before it sleeps, 0 to 100; no effect with OpenMP (50)", |flags, n| {
        set_poll(&mut flags.cpu, n)
    }),
    mask(&["-Cb", "--cpu-mask-batch"], "CPUs to run on for batches, as a mask (as --cpu-mask)", |flags, value| {
        add_mask(&mut flags.cpu_batch, value)
    }),
    range(&["-Crb", "--cpu-range-batch"], "CPUs to run on for batches, first and last; added to --cpu-mask-batch", |flags, value| {
        add_range(&mut flags.cpu_batch, value)
    }),
    strict(&["--cpu-strict-batch"], "Pin each thread for batches to one CPU (as --cpu-strict)", |flags, value| {
        flags.cpu_batch.strict = Some(value != 0);
        Ok(())
    }),
    Flag::int(&["--prio-batch"], "Priority of threads for batches, 0 to 3 (as --prio)", |flags, n| {
        set_prio(&mut flags.cpu_batch, n, 0)
    })
    .same_bits(),
    poll(&["--poll-batch"], "Polling of threads for batches (as --poll)", |flags, n| set_poll(&mut flags.cpu_batch, n)),
    Flag::new(
        &["--numa"],
        "TYPE",
        "On a machine with several NUMA nodes: distribute threads over all nodes, keep them on one, or follow numactl",
        Set::Choice(Numa::WORDS, |flags, numa| {
            // As llama.cpp reads it.
            flags.numa = Some(if numa.is_empty() { Numa::Distribute } else { Numa::parse(numa)? });
            Ok(())
        }),
    )
    .env("LLAMA_ARG_NUMA")
    .same_bits(),
    Flag::new(
        &["--cpu-products"],
        "WHO",
        "Compute matrix products on the CPU with this program's kernels where they are faster, or with ggml's only; the bits of \
         the results are the same (auto)",
        Set::Choice(CpuProducts::WORDS, |flags, who| {
            flags.cpu_products = CpuProducts::parse(who)?;
            Ok(())
        }),
    )
    .ours()
    .same_bits(),
];

type SetText = fn(&mut Flags, &str) -> Checked;
type SetInt = fn(&mut Flags, i32) -> Checked;

const fn mask(names: &'static [&'static str], help: &'static str, set: SetText) -> Flag {
    Flag::new(names, "MASK", help, Set::Text(set)).same_bits()
}

const fn range(names: &'static [&'static str], help: &'static str, set: SetText) -> Flag {
    Flag::new(names, "LO-HI", help, Set::Text(set)).same_bits()
}

const fn strict(names: &'static [&'static str], help: &'static str, set: SetInt) -> Flag {
    Flag::int(names, help, set).value("0|1").same_bits()
}

const fn poll(names: &'static [&'static str], help: &'static str, set: SetInt) -> Flag {
    Flag::int(names, help, set).value("0..100").same_bits()
}

fn set_prio(cpu: &mut Cpu, n: i32, lowest: i32) -> Checked {
    if !(lowest..=3).contains(&n) {
        return Err(format!("invalid value {n}, not from {lowest} to 3"));
    }
    cpu.prio = Some(n);
    Ok(())
}

fn set_poll(cpu: &mut Cpu, n: i32) -> Checked {
    cpu.poll = Some(u32::try_from(n).map_err(|_| format!("invalid value {n}, below 0"))?);
    Ok(())
}

fn add(cpu: &mut Cpu, wanted: impl Fn(usize) -> bool) {
    cpu.cpus.resize(MAX_CPUS, false);
    for (i, cpu) in cpu.cpus.iter_mut().enumerate() {
        *cpu |= wanted(i);
    }
}

/// The last digit is CPUs 0 to 3.
fn add_mask(cpu: &mut Cpu, mask: &str) -> Checked {
    let digits = mask.strip_prefix("0x").unwrap_or(mask);
    let digits: Vec<u32> = digits
        .chars()
        .take(MAX_DIGITS)
        .map(|c| c.to_digit(16).ok_or_else(|| format!("invalid cpumask: '{c}' is no hexadecimal digit")))
        .collect::<Result<_, _>>()?;
    add(cpu, |i| digits.len().checked_sub(i / 4 + 1).is_some_and(|digit| digits[digit] >> (i % 4) & 1 == 1));
    Ok(())
}

/// Both ends count, and either may be left out.
fn add_range(cpu: &mut Cpu, range: &str) -> Checked {
    let wrong = || format!("invalid range '{range}', not LO-HI with both below {MAX_CPUS}");
    let (first, last) = range.split_once('-').ok_or_else(wrong)?;
    let end = |text: &str, missing| if text.is_empty() { Ok(missing) } else { text.parse().map_err(|_| wrong()) };
    let (first, last): (usize, usize) = (end(first, 0)?, end(last, MAX_CPUS - 1)?);
    if first >= MAX_CPUS || last >= MAX_CPUS {
        return Err(wrong());
    }
    add(cpu, |i| (first..=last).contains(&i));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpus(cpu: &Cpu) -> Vec<usize> {
        (0..cpu.cpus.len()).filter(|&i| cpu.cpus[i]).collect()
    }

    #[test]
    fn masks_and_ranges_add_up() {
        let mut cpu = Cpu::default();
        add_mask(&mut cpu, "0x15").unwrap();
        assert_eq!(cpus(&cpu), [0, 2, 4]);
        add_range(&mut cpu, "6-7").unwrap();
        add_range(&mut cpu, "-1").unwrap();
        add_range(&mut cpu, "510-").unwrap();
        assert_eq!(cpus(&cpu), [0, 1, 2, 4, 6, 7, 510, 511]);
        for bad in ["0-512", "5", "a-b", "99999999999999999999-"] {
            assert!(add_range(&mut cpu, bad).unwrap_err().contains("invalid range"), "{bad}");
        }
        assert!(add_mask(&mut cpu, "0xg").is_err());
    }
}
