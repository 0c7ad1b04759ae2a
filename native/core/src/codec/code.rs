//! The parameters of a code and how they are chosen from a histogram.

use super::{Histogram, Order, Profile};
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
    order: Order,
}

impl Code {
    /// Checks what a header declares: 1 ≤ R ≤ 7, A ≤ 2^R, D ≤ 12, T + A·D ≤ 255; levels only where there is a step.
    pub fn new(root_bits: u8, step: u8, levels: u8, order: Order) -> Result<Self, Error> {
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
        let code = Self { root_bits, step, levels, order };
        if code.capacity() > MAX_CAPACITY {
            return bad(format!("a code that reaches {} ranks", code.capacity()));
        }
        Ok(code)
    }

    /// The cheapest code for `histogram` that `profile` admits; `None` if nothing beats 8 bits or there is
    /// nothing to code.
    pub fn choose(histogram: &Histogram, profile: Profile) -> Option<Self> {
        if histogram.total() == 0 {
            return None;
        }
        let orders = Order::candidates(histogram).into_iter();
        let codes = orders.filter_map(|order| Self::choose_with(order, histogram, profile));
        codes.min_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, code)| code)
    }

    /// The cheapest code with this order, and what it costs, in bits a symbol.
    fn choose_with(order: Order, histogram: &Histogram, profile: Profile) -> Option<(f64, Self)> {
        let total = histogram.total() as f64;
        // rarer[i]: share of the symbols whose rank is i or more.
        let mut rarer = [0.0; 257];
        for (i, &s) in order.table().iter().enumerate().take(order.distinct()).rev() {
            rarer[i] = rarer[i + 1] + histogram.counts()[usize::from(s)] as f64 / total;
        }
        // What a table, a level, and an entry of one, take to decode, in bits that they must save at least.
        let (max_levels, cost_of_a_table, cost_of_a_level, cost_of_an_entry) = match profile {
            Profile::Fast => (0, 0.03, 0.0, 0.0),
            Profile::Balanced => (8, 0.03, 0.01, 0.1),
            Profile::Small => (MAX_LEVELS, 0.0, 0.0, 0.0),
        };
        let stored = order.stored_bytes();
        let table = 8.0 * stored as f64 / total + if stored > 0 { cost_of_a_table } else { 0.0 };
        let mut best: Option<(f64, u8, u8, u8)> = None;
        for root_bits in 1..=7u8 {
            for step in 0..=1usize << root_bits {
                let direct = (1usize << root_bits) - step;
                let mut bits = f64::from(root_bits);
                for levels in 0..=max_levels {
                    let reach = direct + step * levels;
                    if reach > MAX_CAPACITY || (levels > 0 && step == 0) {
                        break;
                    }
                    let escapes = rarer[reach];
                    // A code without a step cannot mark escapes.
                    if step > 0 || escapes == 0.0 {
                        let cost = bits + 8.0 * escapes;
                        let entries = bits - f64::from(root_bits);
                        let weighed = cost + table + cost_of_a_level * levels as f64 + cost_of_an_entry * entries;
                        if cost < 8.0 && best.is_none_or(|b| weighed < b.0) {
                            best = Some((weighed, root_bits, step as u8, levels as u8));
                        }
                    }
                    bits += escapes;
                }
            }
        }
        let (weighed, root_bits, step, levels) = best?;
        let code = Self { root_bits, step, levels, order };
        let capacity = code.capacity();
        Some((weighed, Self { order: code.order.shortened(capacity), ..code }))
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
    pub fn order(&self) -> &Order {
        &self.order
    }
    /// The symbol of each rank.
    pub fn table(&self) -> [u8; 256] {
        self.order.table()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_encoder_writes_is_refused() {
        let ok = |r, a, d| Code::new(r, a, d, Order::Distance(7)).is_ok();
        assert!(ok(5, 12, 4));
        assert!(ok(7, 0, 0));
        for (r, a, d) in [(0, 1, 0), (8, 1, 0), (2, 5, 0), (3, 0, 1), (5, 12, 13), (7, 60, 4)] {
            assert!(!ok(r, a, d), "{r} {a} {d}");
        }
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
        let code = Code::choose(&Histogram::of(&[3, 3, 200].repeat(100)), Profile::Small).unwrap();
        assert_eq!((code.root_bits(), &code.table()[..2]), (1, &[3u8, 200][..]));
    }
}
