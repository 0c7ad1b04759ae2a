//! The parameters of a code and how they are chosen from a histogram.

use super::histogram::Histogram;
use super::order::{Order, ZERO, zigzag_decode, zigzag_encode};
use super::types::Profile;
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
    /// Checks what a header declares: 1 ≤ R ≤ 7, A ≤ 2^R, D ≤ 12, T + A·D ≤ 255; levels only where there is a step; for ranks by
    /// distance A is a power of two, but not 1.
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
        if !code.order.admits(usize::from(step)) {
            return bad(format!("step {step} with ranks by distance"));
        }
        if code.capacity() > MAX_CAPACITY {
            return bad(format!("a code that reaches {} ranks", code.capacity()));
        }
        Ok(code)
    }

    /// The cheapest code for `histogram` that `profile` admits; `None` if nothing beats 8 bits or there is
    /// nothing to code.
    pub fn choose(histogram: &Histogram, profile: Profile) -> Option<Self> {
        Self::cheapest(histogram, profile, 0)
    }

    /// As [`Self::choose`], of the codes in which rank 0 is not continued: weights of it that stand for nothing take no more
    /// than their root fields.
    pub fn choose_for_edges(histogram: &Histogram, profile: Profile) -> Option<Self> {
        Self::cheapest(histogram, profile, 1)
    }

    fn cheapest(histogram: &Histogram, profile: Profile, least_direct: usize) -> Option<Self> {
        if histogram.total() == 0 {
            return None;
        }
        let orders = Order::candidates(histogram).into_iter();
        let codes = orders.filter_map(|order| Self::choose_with(order, histogram, profile, least_direct));
        codes.min_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, code)| code)
    }

    /// The cheapest code with this order, and what it costs, in bits a symbol.
    fn choose_with(
        order: Order,
        histogram: &Histogram,
        profile: Profile,
        least_direct: usize,
    ) -> Option<(f64, Self)> {
        let total = histogram.total() as f64;
        // rarer[i]: share of the symbols whose rank is i or more.
        let mut rarer = [0.0; 257];
        for (i, &s) in order.table().iter().enumerate().take(order.distinct()).rev() {
            rarer[i] = rarer[i + 1] + histogram.counts()[usize::from(s)] as f64 / total;
        }
        // What a table, a centre, a level, and an entry of one, take to decode, in bits that they must save at least.
        let (max_levels, cost_of_a_table, cost_of_a_centre, cost_of_a_level, cost_of_an_entry) = match profile {
            // A product of one row took 18 % longer with a table, at 5 bits, and 8 % with a centre to add, 5 % with `Balanced`; a
            // level for what escapes saves size, not time.
            Profile::Fast => (0, 0.3, 0.1, 0.0, 0.0),
            Profile::Balanced => (8, 0.06, 0.02, 0.01, 0.1),
            // So little that size alone decides, but among codes of one size not rounding: R = 4 with T = 0 is R = 5, only slower.
            Profile::Small => (MAX_LEVELS, 0.0, 0.0, 0.0, 0.001),
        };
        let stored = match profile {
            // A header ends at a multiple of 64.
            Profile::Small => order.stored_bytes().next_multiple_of(64),
            Profile::Fast | Profile::Balanced => order.stored_bytes(),
        };
        let by_order = match order {
            Order::Distance(ZERO) => 0.0,
            Order::Distance(_) => cost_of_a_centre,
            Order::Stored(_) => 8.0 * stored as f64 / total + cost_of_a_table,
        };
        let mut best: Option<(f64, u8, u8, u8)> = None;
        for root_bits in 1..=7u8 {
            for step in (0..=(1usize << root_bits) - least_direct).filter(|&step| order.admits(step)) {
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
                        let weighed = cost + by_order + cost_of_a_level * levels as f64 + cost_of_an_entry * entries;
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
    /// A: root values that are continued, and how many ranks further each continuation bit leads.
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
    /// What a continuation bit adds to a weight's *sum*: A, or for ranks by distance, whose sums are offsets, half of it.
    pub fn sum_step(&self) -> u8 {
        match self.order {
            Order::Distance(_) => self.step / 2,
            Order::Stored(_) => self.step,
        }
    }
    /// The sum of an escape without its byte, which takes the place of the last step.
    pub fn escape_base(&self) -> u8 {
        self.levels.saturating_sub(1).wrapping_mul(self.sum_step())
    }
    /// What a sum is counted from for ranks by distance: T / 2, the first offset that is continued. As A is a power of two, and this
    /// a multiple of its half, a sum changes bits of an offset that its root field leaves alone: with exclusive or it is right for
    /// offsets of either sign.
    pub fn first_continued(&self) -> u8 {
        match self.order {
            Order::Distance(_) => self.direct() / 2,
            Order::Stored(_) => 0,
        }
    }
    /// What the root field holds for a rank below 2^R.
    pub fn root_field(&self, root: u8) -> u8 {
        match self.order {
            Order::Distance(_) => zigzag_decode(root) & ((1 << self.root_bits) - 1),
            Order::Stored(_) => root,
        }
    }
    /// The inverse of [`Self::root_field`].
    pub fn root(&self, field: u8) -> u8 {
        match self.order {
            Order::Distance(_) => {
                let unused = 8 - self.root_bits;
                zigzag_encode(((field << unused) as i8 >> unused) as u8)
            }
            Order::Stored(_) => field,
        }
    }
    /// The rank of a weight with this root and sum.
    pub fn rank(&self, root: u8, sum: u8) -> u8 {
        match self.order {
            Order::Distance(_) => {
                let first = self.first_continued();
                zigzag_encode(zigzag_decode(root) ^ first.wrapping_add(sum) ^ first)
            }
            Order::Stored(_) => root.wrapping_add(sum),
        }
    }
    /// The sum that makes this rank of this root.
    pub fn sum(&self, root: u8, rank: u8) -> u8 {
        match self.order {
            Order::Distance(_) => {
                let first = self.first_continued();
                (zigzag_decode(root) ^ zigzag_decode(rank) ^ first).wrapping_sub(first)
            }
            Order::Stored(_) => rank.wrapping_sub(root),
        }
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
    use super::super::Stored;
    use super::*;

    #[test]
    fn what_no_encoder_writes_is_refused() {
        let stored = Order::Stored(Stored::new(vec![7], 0).unwrap());
        let ok = |r, a, d, order: &Order| Code::new(r, a, d, order.clone()).is_ok();
        for order in [&stored, &Order::Distance(7)] {
            assert!(ok(5, 16, 4, order));
            assert!(ok(7, 0, 0, order));
            assert!(ok(1, 2, 12, order));
            assert!(ok(7, 127, 2, &stored), "255 ranks");
            for (r, a, d) in [(0, 2, 0), (8, 2, 0), (2, 8, 0), (3, 0, 1), (5, 8, 13), (7, 64, 4), (7, 128, 2)] {
                assert!(!ok(r, a, d, order), "{r} {a} {d}");
            }
        }
        for (r, a, d) in [(5, 12, 4), (5, 1, 0), (5, 6, 0)] {
            assert!(ok(r, a, d, &stored) && !ok(r, a, d, &Order::Distance(7)), "{r} {a} {d}");
        }
    }

    #[test]
    fn roots_and_sums_make_ranks() {
        let stored = Order::Stored(Stored::new(vec![7], 0).unwrap());
        for (r, a, d) in [(5, 8, 4), (1, 2, 12), (7, 64, 2), (3, 8, 5), (6, 0, 0), (4, 2, 0)] {
            for order in [stored.clone(), Order::Distance(9)] {
                let code = Code::new(r, a, d, order).unwrap();
                for root in 0..1u16 << r {
                    let root = root as u8;
                    assert_eq!(code.root(code.root_field(root)), root);
                    assert_eq!(code.rank(root, 0), root);
                    assert!((0..=255).all(|rank| code.rank(root, code.sum(root, rank)) == rank));
                    for steps in 0..if root >= code.direct() { d } else { 0 } {
                        let expected = usize::from(root) + usize::from(a) * usize::from(steps);
                        assert_eq!(usize::from(code.rank(root, code.sum_step() * steps)), expected);
                    }
                }
            }
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
    fn of_codes_of_one_size_small_takes_the_one_with_fewer_entries() {
        // 64 symbols, each as frequent: six bits, as root fields alone or with levels below shorter ones.
        let symbols: Vec<u8> = (96..160).collect();
        let code = Code::choose(&Histogram::of(&symbols.repeat(500)), Profile::Small).unwrap();
        assert_eq!((code.root_bits(), code.step()), (6, 0));
    }

    #[test]
    fn of_codes_that_cost_the_same_the_one_without_a_step_is_taken() {
        // Of six symbols the root field of three bits is the whole word, whether its other values are continued or not.
        let histogram = Histogram::of(&(125..=130).collect::<Vec<u8>>().repeat(99));
        for profile in [Profile::Fast, Profile::Balanced, Profile::Small] {
            let code = Code::choose(&histogram, profile).unwrap();
            assert_eq!((code.root_bits(), code.step(), code.levels()), (3, 0, 0), "{profile:?}");
        }
    }

    #[test]
    fn two_symbols_take_one_bit() {
        let code = Code::choose(&Histogram::of(&[3, 3, 200].repeat(100)), Profile::Small).unwrap();
        assert_eq!((code.root_bits(), &code.table()[..2]), (1, &[3u8, 200][..]));
    }

    #[test]
    fn a_centre_to_add_must_save_more_than_its_time() {
        // As many on both sides of the gap in front of `first`, which a distance from there ranks best.
        let around = |first: u8| -> Vec<u8> {
            let pairs = (0..25u8).flat_map(|d| [first + d, first - 1 - d].repeat(usize::from(50 - 2 * d)));
            pairs.chain([first]).collect()
        };
        let order = |first, profile| Code::choose(&Histogram::of(&around(first)), profile).unwrap().order().clone();
        for profile in [Profile::Fast, Profile::Balanced] {
            assert_eq!(order(ZERO + 1, profile), Order::Distance(ZERO));
            assert_eq!(order(200, profile), Order::Distance(200));
        }
        assert_eq!(order(ZERO + 1, Profile::Small), Order::Distance(ZERO + 1));
    }
}
