//! Completions for shells, from the table and from the commands' own options.

mod bash;
mod fish;
mod zsh;

pub(super) use bash::script as bash;
pub(super) use fish::script as fish;
pub(super) use zsh::script as zsh;

/// The files in `assets/completions/` are what the program prints: for packages, which cannot run it.
#[cfg(test)]
mod tests {
    use super::super::docs::assert_current;

    #[test]
    fn completions_are_current() {
        assert_current("assets/completions/llama-imatrix.bash", &super::bash());
        assert_current("assets/completions/_llama-imatrix", &super::zsh());
        assert_current("assets/completions/llama-imatrix.fish", &super::fish());
    }
}
