//! Symbol counts and the order-0 entropy.

/// Occurrences of each symbol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram {
    counts: [u64; 256],
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: [0; 256] }
    }
}

impl Histogram {
    /// Counts `symbols`.
    pub fn of(symbols: &[u8]) -> Self {
        let mut h = Self::default();
        h.add(symbols);
        h
    }

    /// Counts `symbols` too.
    pub fn add(&mut self, symbols: &[u8]) {
        // Four tables, so that a run of equal symbols does not wait for its own stores.
        for part in symbols.chunks(1 << 30) {
            let mut tables = [[0u32; 256]; 4];
            let mut quads = part.chunks_exact(4);
            for q in &mut quads {
                for (table, &s) in tables.iter_mut().zip(q) {
                    table[usize::from(s)] += 1;
                }
            }
            for &s in quads.remainder() {
                tables[0][usize::from(s)] += 1;
            }
            for (s, count) in self.counts.iter_mut().enumerate() {
                *count += tables.iter().map(|t| u64::from(t[s])).sum::<u64>();
            }
        }
    }

    /// The same counts for symbols whose bits are flipped by `mask`.
    pub fn flipped(&self, mask: u8) -> Self {
        Self { counts: std::array::from_fn(|s| self.counts[s ^ usize::from(mask)]) }
    }

    /// Occurrences of each symbol.
    pub fn counts(&self) -> &[u64; 256] {
        &self.counts
    }

    /// Number of symbols counted.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The least symbol that half of the symbols do not exceed; 0 when empty.
    pub fn median(&self) -> u8 {
        let (half, mut below) = (self.total().div_ceil(2), 0);
        let reaches = |count: &u64| {
            below += count;
            below >= half
        };
        self.counts.iter().position(reaches).map_or(0, |s| s as u8)
    }

    /// The symbols that occur, most frequent first, then by value.
    pub fn ranked(&self) -> Vec<u8> {
        let mut used: Vec<u8> = (0..=255).filter(|&s: &u8| self.counts[usize::from(s)] > 0).collect();
        used.sort_by_key(|&s| (std::cmp::Reverse(self.counts[usize::from(s)]), s));
        used
    }

    /// Shannon's entropy of the histogram, in bits per symbol; table cost excluded; 0 when empty.
    pub fn order0_entropy_bits(&self) -> f64 {
        let total = self.total() as f64;
        let bits: f64 = self
            .counts
            .iter()
            .filter(|&&c| c > 0)
            .map(|&c| {
                let p = c as f64 / total;
                -p * p.log2()
            })
            .sum();
        bits + 0.0 // of one symbol it is minus zero, and reads so
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropy_of_known_distributions() {
        assert_eq!(Histogram::default().order0_entropy_bits(), 0.0);
        assert_eq!(Histogram::of(&[7; 100]).order0_entropy_bits().to_bits(), 0.0_f64.to_bits());
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(Histogram::of(&all).order0_entropy_bits(), 8.0);
        assert_eq!(Histogram::of(&[1, 1, 2, 3]).order0_entropy_bits(), 1.5);
    }

    #[test]
    fn median_of_odd_and_even_numbers() {
        assert_eq!(Histogram::of(&[9, 1, 5]).median(), 5);
        assert_eq!(Histogram::of(&[9, 1, 5, 200]).median(), 5);
        assert_eq!(Histogram::of(&[255]).median(), 255);
        assert_eq!(Histogram::default().median(), 0);
    }

    #[test]
    fn ranked_breaks_ties_by_value() {
        assert_eq!(Histogram::of(&[9, 4, 4, 200, 9, 4, 1]).ranked(), [4, 9, 1, 200]);
        assert_eq!(Histogram::of(&[0, 128]).flipped(0x80), Histogram::of(&[128, 0]));
    }
}
