//! Which symbol has which rank.

use super::histogram::Histogram;
use crate::error::Error;

/// Ranks that have an entry in the look-up table of a decoder; those above share them.
const HALF: usize = 128;

/// Masks that are tried where more symbols occur than the table has entries. Symbols around 128, as those of int8 weights
/// are, keep their order of distance with the first: 64 to 191 come before the others.
const MASKS: [u8; 2] = [0x40, 0x80];

/// The symbol of the weight zero as int8. A distance from it is the weight itself: decoders have no centre to add.
pub const ZERO: u8 = 0x80;

/// The symbols by rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// By distance from a centre, modulo 256: centre, centre − 1, centre + 1, centre − 2, … Where symbols lie around one value,
    /// as those of most weights do, that is nearly the order of their frequency, and it needs no table: a code word gives the
    /// [offset](zigzag_decode) from the centre.
    Distance(u8),
    /// As stored.
    Stored(Stored),
}

/// Ranks that are stored. The first 128 ranks are these, then others by their distance from the first of them, the smaller
/// first. Rank r + 128 belongs to the symbol of rank r with the bits of the mask turned over, so that a decoder looks up
/// seven bits of a rank, and the eighth adds the mask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    ranks: Vec<u8>,
    mask: u8,
}

impl Stored {
    /// Checks what a header declares: 1 to 128 ranks, no two of them the same or made the same by the mask.
    pub fn new(ranks: Vec<u8>, mask: u8) -> Result<Self, Error> {
        if !(1..=HALF).contains(&ranks.len()) {
            return Err(Error::Header(format!("{} stored ranks are not in 1..={HALF}", ranks.len())));
        }
        let mut first_half = FirstHalf::new(mask);
        match ranks.iter().find(|&&s| !first_half.offer(s)) {
            Some(s) => Err(Error::Header(format!("symbol {s} has two ranks"))),
            None => Ok(Self { ranks, mask }),
        }
    }

    /// Symbols of the first ranks.
    pub fn ranks(&self) -> &[u8] {
        &self.ranks
    }
    /// M: what the symbols of ranks r and r + 128 differ by, in the sense of exclusive or; 0 if only ranks below 128 occur.
    pub fn mask(&self) -> u8 {
        self.mask
    }

    fn table(&self) -> [u8; 256] {
        let mut first_half = FirstHalf::new(self.mask);
        let mut others: Vec<u8> = (0..=255).collect();
        others.sort_by_key(|s| s.abs_diff(self.ranks[0]));
        for &s in self.ranks.iter().chain(&others) {
            first_half.offer(s);
        }
        let ranks = first_half.ranks;
        std::array::from_fn(|rank| ranks[rank % HALF] ^ if rank < HALF { 0 } else { self.mask })
    }
}

impl Order {
    /// Orders that may suit a histogram of at least one symbol.
    pub fn candidates(histogram: &Histogram) -> Vec<Self> {
        let used = histogram.ranked();
        let mut centres = vec![ZERO, histogram.median(), used[0]];
        centres.dedup();
        let masks = if used.len() <= HALF { &[0][..] } else { &MASKS };
        let stored = masks.iter().map(|&mask| {
            let mut first_half = FirstHalf::new(mask);
            used.iter().for_each(|&s| {
                first_half.offer(s);
            });
            Self::Stored(Stored { ranks: first_half.ranks, mask })
        });
        centres.into_iter().map(Self::Distance).chain(stored).collect()
    }

    /// The same without what a code that gives words to `capacity` ranks need not store.
    pub fn shortened(mut self, capacity: usize) -> Self {
        // Escapes need no order, but they need a rank: without a mask only stored symbols are sure to have one.
        if let Self::Stored(Stored { ranks, mask }) = &mut self
            && *mask != 0
        {
            ranks.truncate(capacity);
        }
        self
    }

    /// Bytes that it takes in a header.
    pub fn stored_bytes(&self) -> usize {
        match self {
            Self::Distance(_) => 0,
            Self::Stored(stored) => stored.ranks.len(),
        }
    }

    /// The symbol that pads incomplete tiles best.
    pub fn first(&self) -> u8 {
        match self {
            Self::Distance(centre) => *centre,
            Self::Stored(stored) => stored.ranks[0],
        }
    }

    /// Whether a code with this order may have that step.
    pub fn admits(&self, step: usize) -> bool {
        match self {
            Self::Distance(_) => step == 0 || step > 1 && step.is_power_of_two(),
            Self::Stored(_) => true,
        }
    }

    /// Ranks that no other rank shares its symbol with, from the first on.
    pub fn distinct(&self) -> usize {
        match self {
            Self::Stored(Stored { mask: 0, .. }) => HALF,
            _ => 256,
        }
    }

    /// The symbol of each rank.
    pub fn table(&self) -> [u8; 256] {
        match self {
            Self::Distance(centre) => std::array::from_fn(|rank| centre.wrapping_add(zigzag_decode(rank as u8))),
            Self::Stored(stored) => stored.table(),
        }
    }
}

/// The offset of a rank by distance, in two's complement: half of an even rank, and of an odd one that with all bits turned
/// over: 0, −1, 1, −2, 2, …
pub fn zigzag_decode(rank: u8) -> u8 {
    (rank >> 1) ^ (rank & 1).wrapping_neg()
}

/// The rank of an offset: the inverse of [`zigzag_decode`].
pub fn zigzag_encode(offset: u8) -> u8 {
    (offset << 1) ^ (offset >> 7).wrapping_neg()
}

/// Symbols of the first ranks: at most 128, and of two that the mask turns into each other one.
struct FirstHalf {
    ranks: Vec<u8>,
    mask: u8,
    taken: [bool; 256],
}

impl FirstHalf {
    fn new(mask: u8) -> Self {
        Self { ranks: Vec::with_capacity(HALF), mask, taken: [false; 256] }
    }

    /// Gives the symbol the next rank; whether there is one for it.
    fn offer(&mut self, symbol: u8) -> bool {
        let free = self.ranks.len() < HALF && !self.taken[usize::from(symbol)];
        if free {
            self.taken[usize::from(symbol)] = true;
            self.taken[usize::from(symbol ^ self.mask)] = true;
            self.ranks.push(symbol);
        }
        free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_symbol_has_one_rank(order: &Order) -> bool {
        let mut table = order.table();
        table.sort_unstable();
        table.iter().enumerate().all(|(i, &s)| i == usize::from(s))
    }

    #[test]
    fn symbols_without_a_rank_follow_by_distance() {
        let table = Stored::new(vec![5, 4, 200], 0x80).unwrap().table();
        assert_eq!(table[..8], [5, 4, 200, 6, 3, 7, 2, 8]);
        // 72 is not among the first, for 200 has its place.
        assert_eq!(table[126..132], [126, 127, 133, 132, 72, 134]);
        let table = Stored::new(vec![5, 4, 200], 0).unwrap().table();
        assert_eq!(table[..128], table[128..]);
        assert_eq!(table[127], 126);
    }

    #[test]
    fn every_symbol_has_a_rank_where_there_is_a_mask() {
        for mask in MASKS {
            for first in [0, 77, 128, 255] {
                assert!(every_symbol_has_one_rank(&Order::Stored(Stored::new(vec![first], mask).unwrap())));
            }
        }
        // The order of distance from 128 is kept.
        let table = Stored::new(vec![128], 0x40).unwrap().table();
        assert!(table.iter().take(255).zip(&table[1..]).all(|(a, b)| a.abs_diff(128) <= b.abs_diff(128)));
    }

    #[test]
    fn only_with_a_mask_can_symbols_be_left_out() {
        let stored = |mask| Order::Stored(Stored::new(vec![7, 9, 200], mask).unwrap());
        assert_eq!(stored(0).shortened(1), stored(0), "what escapes would have no rank");
        assert_eq!(stored(0x80).shortened(2), Order::Stored(Stored::new(vec![7, 9], 0x80).unwrap()));
        assert_eq!(stored(0x80).shortened(3), stored(0x80));
        assert_eq!(Order::Distance(9).shortened(1), Order::Distance(9));
    }

    #[test]
    fn ranks_and_offsets() {
        assert_eq!([0, 1, 2, 3, 4].map(|rank| zigzag_decode(rank) as i8), [0, -1, 1, -2, 2]);
        assert!((0..=255).all(|rank| zigzag_encode(zigzag_decode(rank)) == rank));
    }

    #[test]
    fn distance_goes_round() {
        assert_eq!(Order::Distance(128).table()[..5], [128, 127, 129, 126, 130]);
        assert_eq!(Order::Distance(255).table()[..5], [255, 254, 0, 253, 1]);
        assert!((0..=255).all(|centre| every_symbol_has_one_rank(&Order::Distance(centre))));
    }

    #[test]
    fn ranks_that_no_encoder_stores_are_refused() {
        let refused = |ranks: &[u8], mask| Stored::new(ranks.to_vec(), mask).is_err();
        assert!(refused(&[], 0));
        assert!(refused(&(0..129).collect::<Vec<u8>>(), 0));
        assert!(!refused(&(0..128).collect::<Vec<u8>>(), 0));
        assert!(refused(&[1, 1], 0));
        assert!(!refused(&[1, 129], 0));
        assert!(refused(&[1, 129], 0x80));
    }
}
