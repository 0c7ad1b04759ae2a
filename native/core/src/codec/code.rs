//! The parameters of a code and how they are chosen from a histogram.

use super::{Histogram, Profile};
use crate::error::Error;

/// Continuation levels at the most.
pub const MAX_LEVELS: usize = 12;

/// Ranks with a code word of their own, at the most.
const MAX_CAPACITY: usize = 255;

/// A code: root width, step, levels, and the symbols by rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Code {
    root_bits: u8,
    step: u8,
    levels: u8,
    ranks: Vec<u8>,
}

impl Code {
    /// Checks what a header declares: 1 ≤ R ≤ 7, A ≤ 2^R, D ≤ 8, T + A·D ≤ 88, no more ranks than that, all
    /// of them different; levels only where there is a step.
    pub fn new(root_bits: u8, step: u8, levels: u8, ranks: Vec<u8>) -> Result<Self, Error> {
        let bad = |what: String| Err(Error::Header(what));
        if !(1..=7).contains(&root_bits) {
            return bad(format!("root width {root_bits} is not in 1..=7"));
        }
        if u32::from(step) > 1 << root_bits {
            return bad(format!("step {step} exceeds the {} root values", 1 << root_bits));
        }
        if usize::from(levels) > MAX_LEVELS || (levels > 0 && step == 0) {
            return bad(format!("{levels} levels with step {step}"));
        }
        let code = Self { root_bits, step, levels, ranks };
        if code.capacity() > MAX_CAPACITY || code.ranks.len() > code.capacity() || code.ranks.is_empty() {
            return bad(format!("{} ranks where the code reaches {}", code.ranks.len(), code.capacity()));
        }
        let mut seen = [false; 256];
        for &s in &code.ranks {
            if std::mem::replace(&mut seen[usize::from(s)], true) {
                return bad(format!("symbol {s} has two ranks"));
            }
        }
        Ok(code)
    }

    /// The cheapest code for `histogram` that `profile` admits; `None` if nothing beats 8 bits or there is
    /// nothing to code.
    pub fn choose(histogram: &Histogram, profile: Profile) -> Option<Self> {
        let ranked = histogram.ranked();
        if ranked.is_empty() {
            return None;
        }
        let total = histogram.total() as f64;
        // rarer[i]: share of the symbols whose rank is i or more.
        let mut rarer = vec![0.0; ranked.len() + 1];
        for (i, &s) in ranked.iter().enumerate().rev() {
            rarer[i] = rarer[i + 1] + histogram.counts()[usize::from(s)] as f64 / total;
        }
        let share_from = |rank: usize| rarer[rank.min(ranked.len())];
        // What a level, and an entry of one, take to decode, in bits that they must save at least.
        let (max_levels, cost_of_a_level, cost_of_an_entry) = match profile {
            Profile::Fast => (0, 0.0, 0.0),
            Profile::Balanced => (8, 0.01, 0.1),
            Profile::Small => (MAX_LEVELS, 0.0, 0.0),
        };
        let mut best: Option<(f64, f64, u8, u8, u8)> = None;
        for root_bits in 1..=7u8 {
            for step in 0..=1usize << root_bits {
                let direct = (1usize << root_bits) - step;
                let mut bits = f64::from(root_bits);
                for levels in 0..=max_levels {
                    let reach = direct + step * levels;
                    if reach > MAX_CAPACITY || (levels > 0 && step == 0) {
                        break;
                    }
                    let escapes = share_from(reach);
                    // A code without a step cannot mark escapes.
                    if step > 0 || escapes == 0.0 {
                        let cost = bits + 8.0 * escapes;
                        let entries = bits - f64::from(root_bits);
                        let weighed = cost + cost_of_a_level * levels as f64 + cost_of_an_entry * entries;
                        if cost < 8.0 && best.is_none_or(|b| weighed < b.0) {
                            best = Some((weighed, cost, root_bits, step as u8, levels as u8));
                        }
                    }
                    bits += escapes;
                }
            }
        }
        let (_, _, root_bits, step, levels) = best?;
        let mut code = Self { root_bits, step, levels, ranks: Vec::new() };
        code.ranks = ranked[..ranked.len().min(code.capacity())].to_vec();
        Some(code)
    }

    /// R: bits of the root field.
    pub fn root_bits(&self) -> usize {
        usize::from(self.root_bits)
    }
    /// A: root values that are continued, and what each continuation bit adds.
    pub fn step(&self) -> u8 {
        self.step
    }
    /// D: continuation levels.
    pub fn levels(&self) -> usize {
        usize::from(self.levels)
    }
    /// T: root values below it end the code word.
    pub fn direct(&self) -> u8 {
        ((1u16 << self.root_bits) - u16::from(self.step)) as u8
    }
    /// T + A·D: ranks that have a code word.
    pub fn capacity(&self) -> usize {
        usize::from(self.direct()) + usize::from(self.step) * self.levels()
    }
    /// What the continuations of an escape add besides its own byte, which takes the place of the last step.
    pub fn escape_base(&self) -> u8 {
        self.levels.saturating_sub(1).wrapping_mul(self.step)
    }
    /// Symbols by rank.
    pub fn ranks(&self) -> &[u8] {
        &self.ranks
    }

    /// All 256 symbols by rank: those with a stored rank, then the others by distance from the first, the smaller
    /// first; so those that occur at all tend to come before rank 128, where look-ups become dearer.
    pub fn table(&self) -> [u8; 256] {
        let mut table = [0; 256];
        let (stored, others) = table.split_at_mut(self.ranks.len());
        stored.copy_from_slice(&self.ranks);
        let mut used = [false; 256];
        self.ranks.iter().for_each(|&s| used[usize::from(s)] = true);
        let mut rest: Vec<u8> = (0..=255).filter(|&s: &u8| !used[usize::from(s)]).collect();
        rest.sort_by_key(|s| s.abs_diff(self.ranks[0]));
        others.copy_from_slice(&rest);
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_encoder_writes_is_refused() {
        let ok = |r, a, d, n: u8| Code::new(r, a, d, (0..n).collect()).is_ok();
        assert!(ok(5, 12, 4, 68));
        assert!(ok(7, 0, 0, 128));
        for (r, a, d, n) in [
            (0, 1, 0, 1),
            (8, 1, 0, 1),
            (2, 5, 0, 1),
            (3, 0, 1, 1),
            (5, 12, 13, 1),
            (7, 60, 4, 1),
            (2, 1, 0, 4),
            (2, 1, 0, 0),
        ] {
            assert!(!ok(r, a, d, n), "{r} {a} {d} {n}");
        }
        assert!(Code::new(3, 1, 0, vec![1, 1]).is_err());
    }

    #[test]
    fn symbols_without_a_rank_follow_by_distance() {
        let table = Code::new(3, 2, 0, vec![5, 4, 200]).unwrap().table();
        assert_eq!(table[..8], [5, 4, 200, 6, 3, 7, 2, 8]);
        assert_eq!(table[255], 255);
    }

    #[test]
    fn uniform_noise_has_no_code() {
        let all: Vec<u8> = (0..=255).collect();
        for profile in [Profile::Fast, Profile::Balanced, Profile::Small] {
            assert_eq!(Code::choose(&Histogram::of(&all), profile), None);
        }
        assert_eq!(Code::choose(&Histogram::default(), Profile::Small), None);
    }

    #[test]
    fn two_symbols_take_one_bit() {
        let code = Code::choose(&Histogram::of(&[3, 3, 200]), Profile::Small).unwrap();
        assert_eq!((code.root_bits(), code.ranks()), (1, &[3u8, 200][..]));
    }
}
