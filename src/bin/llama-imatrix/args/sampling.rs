//! Sampling flags. No token is sampled, so these are read, checked and ignored.

use super::table::{Checked, Flag, Set};

const WHY: &str = "no token is sampled";

pub(super) static FLAGS: &[Flag] = &[
    text(&["--samplers"], "NAME;..", "Samplers, in order"),
    text(&["--sampler-seq", "--sampling-seq"], "LETTERS", "The same in short"),
    Flag::new(
        &["-s", "--seed"],
        "SEED",
        "Which of the random orders --shuffle takes; nothing else is random (0)",
        Set::Text(|flags, value| {
            // Upstream's -1 is the largest number.
            let number = value.trim().parse::<i64>().map_err(|_| format!("'{value}' is not a whole number"))?;
            flags.seed = number as u64;
            Ok(())
        }),
    )
    .named("shuffle"),
    Flag::switch(&["--ignore-eos"], "Go on after the end", |_| ()).ignored(WHY),
    float(&["--temp", "--temperature"], "Temperature").env("LLAMA_ARG_TEMPERATURE"),
    int(&["--top-k"], "Keep the N likeliest tokens").env("LLAMA_ARG_TOP_K"),
    float(&["--top-p"], "Keep the likeliest tokens up to this probability").env("LLAMA_ARG_TOP_P"),
    float(&["--min-p"], "Keep tokens above this share of the likeliest one's probability").env("LLAMA_ARG_MIN_P"),
    float(&["--top-nsigma", "--top-n-sigma"], "Keep tokens within N deviations of the likeliest"),
    float(&["--xtc-probability"], "How often to leave out the likeliest tokens"),
    float(&["--xtc-threshold"], "Above which probability"),
    float(&["--typical", "--typical-p"], "Keep tokens of typical information"),
    int(&["--repeat-last-n"], "Tokens in which a repetition counts"),
    float(&["--repeat-penalty"], "Penalty on repetitions").env("LLAMA_ARG_REPEAT_PENALTY"),
    float(&["--presence-penalty"], "Penalty on tokens that were there").env("LLAMA_ARG_PRESENCE_PENALTY"),
    float(&["--frequency-penalty"], "Penalty each time they were").env("LLAMA_ARG_FREQUENCY_PENALTY"),
    float(&["--dry-multiplier"], "DRY: strength of the penalty on repeated sequences"),
    float(&["--dry-base"], "DRY: how it grows with their length"),
    int(&["--dry-allowed-length"], "DRY: up to which length they are free"),
    int(&["--dry-penalty-last-n"], "DRY: tokens in which they count"),
    text(&["--dry-sequence-breaker"], "TEXT", "DRY: what ends a sequence"),
    float(&["--adaptive-target"], "Choose tokens near this probability"),
    float(&["--adaptive-decay"], "How fast that adapts"),
    float(&["--dynatemp-range"], "By how much the temperature may vary"),
    float(&["--dynatemp-exp"], "How it depends on entropy"),
    int(&["--mirostat"], "Mirostat: version, 0 for none"),
    float(&["--mirostat-lr"], "Mirostat: learning rate"),
    float(&["--mirostat-ent"], "Mirostat: target entropy"),
    Flag::new(&["-l", "--logit-bias"], "TOKEN(+|-)BIAS", "Make a token likelier, or less", Set::Text(|_, v| bias(v)))
        .ignored(WHY),
    text(&["--grammar"], "GRAMMAR", "A grammar the text must follow"),
    file(&["--grammar-file"], "FNAME", "The same from a file"),
    text(&["-j", "--json-schema"], "SCHEMA", "A JSON schema the text must follow"),
    file(&["-jf", "--json-schema-file"], "FILE", "The same from a file"),
    Flag::switch(&["-bs", "--backend-sampling"], "Sample on the device", |_| ())
        .env("LLAMA_ARG_BACKEND_SAMPLING")
        .ignored(WHY),
];

type Names = &'static [&'static str];

const fn text(names: Names, value: &'static str, help: &'static str) -> Flag {
    Flag::new(names, value, help, Set::Text(|_, _| Ok(()))).ignored(WHY)
}

const fn int(names: Names, help: &'static str) -> Flag {
    Flag::int(names, help, |_, _| Ok(())).ignored(WHY)
}

const fn float(names: Names, help: &'static str) -> Flag {
    Flag::float(names, help, |_, _| Ok(())).ignored(WHY)
}

const fn file(names: Names, value: &'static str, help: &'static str) -> Flag {
    Flag::new(
        names,
        value,
        help,
        Set::Raw(|_, path| match std::fs::File::open(path) {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("failed to open file '{}': {error}", path.display())),
        }),
    )
    .ignored(WHY)
}

fn bias(value: &str) -> Checked {
    let sign = value.rfind(['+', '-']).filter(|&at| at > 0);
    let right = sign
        .is_some_and(|at| value[..at].trim().parse::<i32>().is_ok() && value[at + 1..].trim().parse::<f32>().is_ok());
    if right { Ok(()) } else { Err(format!("invalid input format '{value}'")) }
}
