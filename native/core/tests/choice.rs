//! The code that is chosen for a histogram: none costs less, by size and what its parts take to decode. And what is written
//! with it: as long as its code words, and decoded by the reference decoder.

use mcd_core::Profile;
use mcd_core::codec::decode::CodedTile;
use mcd_core::codec::encode::EncodeTable;
use mcd_core::codec::{Code, Histogram, MAX_LEVELS, Order};
use mcd_testkit::Rng;

/// An order, and how often the symbol of each rank occurs.
struct Ranked {
    order: Order,
    counts: [u64; 256],
}

impl Ranked {
    fn new(order: Order, histogram: &Histogram) -> Self {
        let table = order.table();
        let mut counts = [0; 256];
        for (symbol, &count) in histogram.counts().iter().enumerate() {
            // Where two ranks have one symbol, the first is its own.
            if let Some(rank) = table.iter().position(|&s| usize::from(s) == symbol) {
                counts[rank] = count;
            }
        }
        Self { order, counts }
    }

    /// What a code of this order costs a profile, in bits a symbol; `None` if it may not be chosen.
    fn cost(&self, code: &Code, profile: Profile) -> Option<f64> {
        let (direct, step, capacity) = (usize::from(code.direct()), usize::from(code.step()), code.capacity());
        // Of all symbols: entries in levels, and escapes.
        let (mut entries, mut escapes) = (0, 0);
        for (rank, &count) in self.counts.iter().enumerate() {
            match rank {
                _ if rank < direct => {}
                _ if rank < capacity => entries += count * ((rank - direct) / step + 1) as u64,
                _ => (entries, escapes) = (entries + count * code.levels() as u64, escapes + count),
            }
        }
        let total = self.counts.iter().sum::<u64>() as f64;
        let (entries, escapes) = (entries as f64 / total, escapes as f64 / total);
        let size = code.root_bits() as f64 + entries + 8.0 * escapes;
        let stored = self.order.stored_bytes();
        let (table, centre, level, entry, header) = match profile {
            Profile::Fast => (0.3, 0.1, 0.0, 0.0, stored),
            Profile::Balanced => (0.06, 0.02, 0.01, 0.1, stored),
            Profile::Small => (0.0, 0.0, 0.0, 0.001, stored.next_multiple_of(64)),
        };
        let order = match self.order {
            Order::Distance(0x80) => 0.0,
            Order::Distance(_) => centre,
            Order::Stored(_) => table + 8.0 * header as f64 / total,
        };
        let admitted = size < 8.0 && (step > 0 || escapes == 0.0);
        admitted.then_some(size + order + level * code.levels() as f64 + entry * entries)
    }

    /// What each code of this order costs; with root fields below `least_direct` not continued.
    fn costs(&self, profile: Profile, least_direct: usize) -> Vec<(Code, f64)> {
        let levels = match profile {
            Profile::Fast => 0,
            Profile::Balanced => 8,
            Profile::Small => MAX_LEVELS as u8,
        };
        let mut costs = Vec::new();
        for root_bits in 1..=7 {
            for step in 0..=((1 << root_bits) - least_direct) as u8 {
                let codes = (0..=levels).filter_map(|d| Code::new(root_bits, step, d, self.order.clone()).ok());
                costs.extend(codes.filter_map(|code| self.cost(&code, profile).map(|cost| (code, cost))));
            }
        }
        costs
    }
}

/// Symbols around a centre, the wider the more; some of them are shifted by `apart`.
fn bell(rng: &mut Rng, count: usize, centre: u8, width: u64, apart: u8) -> Vec<u8> {
    (0..count)
        .map(|i| {
            let offset = (0..4).map(|_| rng.next() % (width + 1)).sum::<u64>() as u8;
            centre.wrapping_add(offset).wrapping_sub(2 * width as u8).wrapping_add(if i % 5 == 0 { apart } else { 0 })
        })
        .collect()
}

/// Histograms of many kinds: narrow, wide, off the centre, with two hills, of few symbols, of nearly all.
fn histograms() -> Vec<Histogram> {
    let mut rng = Rng::new(7);
    let mut all = Vec::new();
    for (width, count) in [(1, 300), (8, 5000), (20, 5000), (60, 40_000)] {
        for (centre, apart) in [(0x80, 0), (0x86, 90), (250, 128)] {
            all.push(Histogram::of(&bell(&mut rng, count, centre, width, apart)));
        }
    }
    all.push(Histogram::of(&[9; 10]));
    all.push(Histogram::of(&(0..128).collect::<Vec<u8>>().repeat(9)));
    all.push(Histogram::of(&(0..129).collect::<Vec<u8>>().repeat(9)));
    // A few symbols far from each other, unlike any order of distance.
    all.push(Histogram::of(&(0..12u8).flat_map(|i| vec![i * 21; 1 << i]).collect::<Vec<u8>>()));
    all
}

#[test]
fn no_other_code_costs_less() {
    for histogram in histograms() {
        for profile in [Profile::Fast, Profile::Balanced, Profile::Small] {
            for (least_direct, chosen) in
                [(0, Code::choose(&histogram, profile)), (1, Code::choose_for_edges(&histogram, profile))]
            {
                let orders = Order::candidates(&histogram).into_iter().map(|order| Ranked::new(order, &histogram));
                let costs: Vec<_> = orders.flat_map(|order| order.costs(profile, least_direct)).collect();
                let least = costs.iter().map(|(_, cost)| *cost).min_by(f64::total_cmp);
                // A table is stored as far as the code needs it.
                let cost = |chosen: &Code| {
                    let parameters = |code: &Code| (code.root_bits(), code.step(), code.levels());
                    let same = |code: &Code| {
                        parameters(code) == parameters(chosen)
                            && code.order().clone().shortened(code.capacity()) == *chosen.order()
                    };
                    costs.iter().find(|(code, _)| same(code)).expect("it may be chosen").1
                };
                match (chosen.as_ref().map(cost), least) {
                    (Some(cost), Some(least)) => assert!(cost < least + 1e-9, "{chosen:?}: {cost}, {least}"),
                    (chosen, least) => assert_eq!(chosen, least),
                }
            }
        }
    }
}

/// Bytes of a coded tile of these symbols, as the format describes it: root fields, the number of weights that are continued, a
/// bit for each entry of each level, and a byte for each escape.
fn described_len(code: &Code, symbols: &[u8]) -> usize {
    let table = code.table();
    let ranks: Vec<_> = symbols.iter().map(|symbol| table.iter().position(|s| s == symbol).unwrap()).collect();
    let entries = |level: usize| {
        let first = usize::from(code.direct()) + usize::from(code.step()) * level;
        ranks.iter().filter(|&&rank| rank >= first).count()
    };
    let levels: usize = (0..code.levels()).map(|level| entries(level).div_ceil(8)).sum();
    symbols.len() / 8 * code.root_bits() + 2 + levels + entries(code.levels())
}

#[test]
fn tiles_are_as_long_as_their_code_words_and_decode() {
    let mut rng = Rng::new(11);
    let mut parameters = std::collections::BTreeSet::new();
    for (width, centre, apart) in
        [(1, 0x80, 0), (3, 0x80, 40), (8, 0x86, 0), (20, 0x80, 9), (30, 250, 128), (45, 20, 0)]
    {
        let symbols = bell(&mut rng, 4 * 512, centre, width, apart);
        for profile in [Profile::Fast, Profile::Balanced, Profile::Small] {
            let Some(code) = Code::choose(&Histogram::of(&symbols), profile) else { continue };
            parameters.insert((code.root_bits(), code.step(), code.levels()));
            let mut coded = EncodeTable::new(&code).encode(&symbols);
            assert_eq!(coded.len(), described_len(&code, &symbols), "{code:?}");
            let end = coded.len().next_multiple_of(64);
            coded.resize(end + 64, 0);
            let tile = CodedTile::parse(&coded, 0, end, symbols.len() / 8 * code.root_bits()).unwrap();
            let mut decoded = vec![0; symbols.len()];
            tile.decode(&code, &mut decoded).unwrap();
            assert!(decoded == symbols, "{code:?}");
            let counts = tile.check(&code).unwrap();
            tile.starts(code.levels(), symbols.len()).expect("it is whole");
            assert_eq!(counts.len(), code.levels() + 1, "{code:?}");
        }
    }
    assert!(parameters.len() > 8, "{parameters:?}");
}
