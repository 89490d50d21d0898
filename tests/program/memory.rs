//! Runs that cannot fit into memory.

use super::*;

/// The system promises pages that it does not have, so llama.cpp sets the context up all the same: without a check the run
/// would be killed in the middle.
#[test]
fn a_run_that_cannot_fit_ends_before_its_first_batch() {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
    let bytes = |name: &str| -> f64 {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() * 1024.0
    };
    // Attention that is not fused has a score of 4 bytes for each pair of tokens and head.
    let tokens = ((bytes("MemTotal:") + bytes("SwapTotal:")) / 4.0).sqrt() as usize;
    let size = tokens.next_power_of_two();
    let bench = Bench::new(&["llama"]);
    bench.write("long.txt", support::text(2 * size + 1000, 3).as_bytes());
    let run = format!("-m llama.gguf -f long.txt -c {size} -b {size} -ub {size} -fa off --chunks 1 --lanes 1 --no-ppl");
    bench.fails(
        &run,
        &["error: the run needs ", " GiB of memory for its 1 contexts", " GiB available; hint: a smaller"],
    );
}
