//! Prints the public API that a rustdoc JSON file tells of, an item a line: `list-public-api FILE`.

use public_api::Builder;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: list-public-api FILE")?;
    // Without what every type has: blanket and auto trait impls, and derived ones.
    let api = Builder::from_rustdoc_json(path)
        .omit_blanket_impls(true)
        .omit_auto_trait_impls(true)
        .omit_auto_derived_impls(true)
        .build()?;
    for item in api.items() {
        println!("{item}");
    }
    Ok(())
}
