use std::ops::Range;

/// The tokens of documents, one after the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Documents {
    tokens: Vec<i32>,
    /// End of each document.
    ends: Vec<usize>,
    /// Number of the text that each document comes from.
    origins: Vec<usize>,
    /// Number of texts so far, those without tokens included.
    n_texts: usize,
}

impl Documents {
    /// Appends a document, unless it has no tokens.
    pub fn push(&mut self, tokens: &[i32]) {
        if !tokens.is_empty() {
            self.tokens.extend_from_slice(tokens);
            self.ends.push(self.tokens.len());
            self.origins.push(self.n_texts);
        }
        self.n_texts += 1;
    }

    /// Number of documents.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Returns true if there are no documents.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Returns all tokens.
    #[must_use]
    pub fn tokens(&self) -> &[i32] {
        &self.tokens
    }

    /// Returns all tokens, as one text.
    #[must_use]
    pub fn into_tokens(self) -> Vec<i32> {
        self.tokens
    }

    /// Returns per document the number of the text that it comes from: texts without tokens are no documents.
    #[must_use]
    pub fn origins(&self) -> &[usize] {
        &self.origins
    }

    /// Returns the range of tokens per document.
    pub(crate) fn spans(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| start..end)
    }

    /// Returns the number of tokens per document.
    pub fn lengths(&self) -> impl Iterator<Item = u64> + '_ {
        self.spans().map(|span| span.len() as u64)
    }

    /// Keeps the first `n` tokens. The document in which they end is truncated.
    pub(crate) fn truncate(&mut self, n: usize) {
        if n >= self.tokens.len() {
            return;
        }
        self.tokens.truncate(n);
        let whole = self.ends.iter().take_while(|&&end| end <= n).count();
        self.ends.truncate(whole);
        if self.ends.last().copied().unwrap_or(0) < n {
            self.ends.push(n);
        }
        self.origins.truncate(self.ends.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_cuts_the_document_that_it_ends_in() {
        let mut documents = Documents::default();
        for document in [&[1, 2, 3][..], &[], &[4], &[5, 6]] {
            documents.push(document);
        }
        assert_eq!(documents.origins(), [0, 2, 3], "the second text has no tokens");
        assert_eq!(documents.spans().collect::<Vec<_>>(), [0..3, 3..4, 4..6]);
        for (n, lengths) in [(9, &[3, 1, 2][..]), (6, &[3, 1, 2]), (5, &[3, 1, 1]), (4, &[3, 1]), (2, &[2]), (0, &[])] {
            let mut documents = documents.clone();
            documents.truncate(n);
            assert_eq!(documents.lengths().collect::<Vec<_>>(), lengths, "{n}");
            assert_eq!((documents.tokens().len(), documents.origins().len()), (n.min(6), lengths.len()));
        }
    }
}
