use llama_cpp_sys_2 as sys;

/// A token's number in its vocabulary.
pub type Token = i32;

/// Tokens for one decode, each with its position, its sequence and a request for logits.
#[derive(Debug, Default)]
pub struct Batch {
    tokens: Vec<Token>,
    positions: Vec<i32>,
    sequences: Vec<i32>,
}

impl Batch {
    /// Creates an empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Removes all tokens and keeps the memory.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.sequences.clear();
    }

    /// Appends a token at `position` of `sequence`, with a request for its logits: without it llama.cpp skips the
    /// token's row in the last layer, which then would not be collected.
    pub fn add(&mut self, token: Token, position: i32, sequence: i32) {
        self.tokens.push(token);
        self.positions.push(position);
        self.sequences.push(sequence);
    }

    /// Number of tokens.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Returns true if the batch has no tokens.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Returns the tokens in order, each with its position.
    #[must_use]
    pub fn tokens(&self) -> impl ExactSizeIterator<Item = (Token, i32)> {
        self.tokens.iter().copied().zip(self.positions.iter().copied())
    }

    /// Returns a position outside `0..limit`, if there is one.
    pub(super) fn position_beyond(&self, limit: i32) -> Option<i32> {
        self.positions.iter().copied().find(|position| !(0..limit).contains(position))
    }

    /// Returns true if all tokens belong to one sequence.
    pub(super) fn is_one_sequence(&self) -> bool {
        self.sequences.windows(2).all(|pair| pair[0] == pair[1])
    }

    /// Runs `call` with llama.cpp's view of this batch.
    pub(super) fn with_c<T>(&mut self, call: impl FnOnce(sys::llama_batch) -> T) -> T {
        let n = self.len();
        let mut n_seq_id = vec![1; n];
        let mut logits = vec![1; n];
        let mut seq_id: Vec<*mut i32> = self.sequences.iter_mut().map(std::ptr::from_mut).collect();
        // Each pointer is to an array of `n` elements that is valid until `call` returns.
        call(sys::llama_batch {
            n_tokens: i32::try_from(n).unwrap_or(i32::MAX),
            token: self.tokens.as_mut_ptr(),
            embd: std::ptr::null_mut(),
            pos: self.positions.as_mut_ptr(),
            n_seq_id: n_seq_id.as_mut_ptr(),
            seq_id: seq_id.as_mut_ptr(),
            logits: logits.as_mut_ptr(),
        })
    }
}
