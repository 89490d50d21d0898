//! Completions for shells, from the table and from the commands' own options.

mod bash;
mod fish;
mod zsh;

pub(super) use bash::script as bash;
pub(super) use fish::script as fish;
pub(super) use zsh::script as zsh;
