//! Which weights of a process are decoded once, and which stay compressed: the rule behind `mcd.residency` = `auto`, the default.
//!
//! Every weight with a choice has an entry in one ledger for the process while its session lives. What is decided is decided at
//! the first run of a node, when all nodes of its session are bound: a weight is decoded if *all* weights of the ledger,
//! decoded, fit the caches that the process may count on. More of them come from memory at each run, where compressed bytes
//! arrive sooner, unless the kernel decodes more slowly than memory gives plain ones (AVX2 and the portable kernel): then all
//! are decoded. So are small tensors that are made floats of, with every kernel. `mcd.decoded_limit` bounds what is decoded;
//! small weights come first, for they gain most for a byte.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use mcd_core::Residency;

/// What a session wants of its weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// All compressed.
    Compressed,
    /// Decoded, smallest first, up to so many bytes.
    Decoded { limit: u64 },
    /// As `Decoded`, where the weights of the process fit its caches.
    Auto { limit: u64 },
}

impl Policy {
    /// What it comes to at the first run with a kernel that outpaces memory or does not. With one that does not, a compressed
    /// weight is slower than a plain one wherever it comes from, and `auto` decodes all.
    pub fn with_kernel(self, outpaces_memory: bool) -> Self {
        match self {
            Self::Auto { limit } if !outpaces_memory => Self::Decoded { limit },
            other => other,
        }
    }

    /// What is known when a session is created: the rest is decided at the first run.
    pub fn at_creation(self) -> Residency {
        match self {
            Self::Decoded { limit: u64::MAX } => Residency::Decoded,
            _ => Residency::Compressed,
        }
    }

    /// Whether there is something to decide at the first run.
    pub fn is_open(self) -> bool {
        self != Self::Compressed && self.at_creation() == Residency::Compressed
    }
}

/// Data caches, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caches {
    /// Second cache of a processor.
    pub second: u64,
    /// Last cache, which others may use as well.
    pub last: u64,
    /// Processors that this process may use.
    pub processors: u64,
}

/// Of the last cache, what a process may count on for each of its processors, whatever the size that the system reports:
/// other processes, and on a virtual machine other machines, live there too.
///
/// Measured with two processors of a virtual machine that reports 480 MiB: 64 MiB of weights are read as from a cache, and
/// compressed ones lose to onnxruntime's there; from 96 MiB on they come from memory, where compressed ones do not
/// (docs/experiments/2026-11-27-sessions.md). Where a weight is decoded in vain, the session is as fast as onnxruntime's.
const SHARE_OF_LAST: u64 = 32 << 20;

/// Where the system does not tell.
const UNKNOWN: (u64, u64) = (512 << 10, 0);

impl Caches {
    /// Those of this machine, for a process that may use some of its processors.
    pub fn of_machine(processors: usize) -> Self {
        static CACHES: OnceLock<Caches> = OnceLock::new();
        *CACHES.get_or_init(|| Self::read(Path::new("/sys/devices/system/cpu/cpu0/cache"), processors as u64))
    }

    /// Those that a folder describes as Linux does it.
    fn read(folder: &Path, processors: u64) -> Self {
        let (mut second, mut last) = UNKNOWN;
        for index in 0..8 {
            let line = |name: &str| std::fs::read_to_string(folder.join(format!("index{index}")).join(name)).ok();
            let (Some(level), Some(kind), Some(size)) = (line("level"), line("type"), line("size")) else { continue };
            let Some(size) = bytes(size.trim()) else { continue };
            match (level.trim(), kind.trim()) {
                ("2", "Unified" | "Data") => second = size,
                ("3" | "4", "Unified" | "Data") => last = last.max(size),
                _ => {}
            }
        }
        Self { second, last, processors }
    }

    /// Bytes of weights that are taken to stay in the caches from run to run.
    pub fn budget(&self) -> u64 {
        let share = SHARE_OF_LAST.saturating_mul(self.processors);
        self.second.saturating_mul(self.processors).saturating_add(self.last.min(share))
    }
}

/// `2048K`, as Linux writes it.
fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = match text.strip_suffix(['K', 'M']) {
        Some(number) if text.ends_with('K') => (number, 1 << 10),
        Some(number) => (number, 1 << 20),
        None => (text, 1),
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

/// A weight in the ledger.
#[derive(Debug, Clone, Copy)]
struct Record {
    id: u64,
    /// Weights of the same key have one decoded copy in the process.
    key: u64,
    bytes: u64,
    decoded: bool,
}

/// The weights of a process that have a choice.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<Vec<Record>>);

/// Of this process.
pub static LEDGER: Ledger = Ledger(Mutex::new(Vec::new()));

impl Ledger {
    /// Adds a weight that has so many bytes when it is decoded; those of one key share them.
    pub fn enter(&'static self, key: u64, bytes: u64) -> Entry {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        self.records(|records| records.push(Record { id, key, bytes, decoded: false }));
        Entry { ledger: self, id }
    }

    fn records<T>(&self, with: impl FnOnce(&mut Vec<Record>) -> T) -> T {
        with(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A weight's place in the ledger, which it leaves with its session.
#[derive(Debug)]
pub struct Entry {
    ledger: &'static Ledger,
    id: u64,
}

impl Entry {
    /// Whether this weight is to be decoded; then it counts as decoded from now on.
    pub fn decide(&self, policy: Policy, caches: Caches) -> bool {
        self.ledger.records(|records| {
            let chosen = choose(records, self.id, policy, caches);
            records.iter_mut().filter(|record| record.id == self.id).for_each(|record| record.decoded = chosen);
            chosen
        })
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.ledger.records(|records| records.retain(|record| record.id != self.id));
    }
}

/// The rule.
fn choose(records: &[Record], id: u64, policy: Policy, caches: Caches) -> bool {
    let Some(own) = records.iter().find(|record| record.id == id) else { return false };
    // Of each key once.
    let sum = |of: &dyn Fn(&Record) -> bool| {
        let bytes: BTreeMap<u64, u64> =
            records.iter().filter(|record| of(record)).map(|record| (record.key, record.bytes)).collect();
        bytes.into_values().fold(0_u64, u64::saturating_add)
    };
    let limit = match policy {
        Policy::Compressed => return false,
        Policy::Decoded { limit } => limit,
        Policy::Auto { limit } if sum(&|_| true) <= caches.budget() => limit,
        Policy::Auto { .. } => return false,
    };
    // Those that come first, whether they have been decided or not, and all that are decoded already.
    let before =
        |other: &Record| other.key != own.key && (other.decoded || (other.bytes, other.id) < (own.bytes, id));
    let there = records.iter().any(|other| other.key == own.key && other.decoded);
    there || sum(&before).saturating_add(own.bytes) <= limit
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const NO_LIMIT: u64 = u64::MAX;

    fn caches(second: u64, last: u64, processors: u64) -> Caches {
        Caches { second, last, processors }
    }

    fn ledger() -> &'static Ledger {
        Box::leak(Box::default())
    }

    #[test]
    fn a_process_counts_on_a_part_of_the_last_cache() {
        // As a virtual machine with two processors reports that of its host.
        assert_eq!(caches(2 * MIB, 480 * MIB, 2).budget(), 68 * MIB);
        // A small one is counted as it is.
        assert_eq!(caches(MIB, 6 * MIB, 4).budget(), 10 * MIB);
        assert_eq!(caches(MIB, 0, 1).budget(), MIB);
        assert_eq!(caches(u64::MAX, u64::MAX, u64::MAX).budget(), u64::MAX);
    }

    #[test]
    fn weights_that_fit_the_caches_are_decoded_and_others_are_not() {
        let (ledger, caches) = (ledger(), caches(2 * MIB, 480 * MIB, 2));
        let auto = Policy::Auto { limit: NO_LIMIT };
        let entries: Vec<Entry> = (0..17).map(|key| ledger.enter(key, 4 * MIB)).collect();
        assert!(entries.iter().all(|entry| entry.decide(auto, caches)));
        let one_more = ledger.enter(17, MIB);
        assert!(!one_more.decide(auto, caches));
        // The session that had them has gone.
        drop(entries);
        assert!(one_more.decide(auto, caches));
    }

    #[test]
    fn of_weights_from_memory_none_is_decoded() {
        let (ledger, caches) = (ledger(), caches(2 * MIB, 480 * MIB, 2));
        let entries: Vec<Entry> = (0..8).map(|key| ledger.enter(key, 16 * MIB)).collect();
        assert!(!entries.iter().any(|entry| entry.decide(Policy::Auto { limit: NO_LIMIT }, caches)));
        assert!(entries.iter().all(|entry| entry.decide(Policy::Decoded { limit: NO_LIMIT }, caches)));
        assert!(!entries.iter().any(|entry| entry.decide(Policy::Compressed, caches)));
    }

    #[test]
    fn a_kernel_that_memory_outpaces_has_all_weights_decoded() {
        let (ledger, caches) = (ledger(), caches(512 << 10, 32 * MIB, 2));
        let entries: Vec<Entry> = (0..8).map(|key| ledger.enter(key, 16 * MIB)).collect();
        let auto = Policy::Auto { limit: NO_LIMIT };
        assert!(!entries.iter().any(|entry| entry.decide(auto.with_kernel(true), caches)));
        assert!(entries.iter().all(|entry| entry.decide(auto.with_kernel(false), caches)));
        assert!(!ledger.enter(9, MIB).decide(Policy::Auto { limit: MIB }.with_kernel(false), caches));
        assert!(!ledger.enter(10, MIB).decide(Policy::Compressed.with_kernel(false), caches));
    }

    #[test]
    fn a_limit_bounds_what_is_decoded_and_small_weights_come_first() {
        for policy in [Policy::Decoded { limit: 5 * MIB }, Policy::Auto { limit: 5 * MIB }] {
            let (ledger, caches) = (ledger(), caches(64 * MIB, 0, 1));
            let sizes = [4, 1, 3, 1, 2];
            let entries: Vec<Entry> =
                sizes.iter().zip(0..).map(|(size, key)| ledger.enter(key, size * MIB)).collect();
            let decided: Vec<bool> = entries.iter().map(|entry| entry.decide(policy, caches)).collect();
            assert_eq!(decided, [false, true, false, true, true], "{policy:?}");
            // What is decoded already counts, though it would come later.
            assert!(ledger.enter(10, MIB).decide(policy, caches));
            let _two = ledger.enter(11, MIB / 2);
            assert!(!ledger.enter(12, 2 * MIB).decide(policy, caches));
        }
        assert!(!ledger().enter(0, 1).decide(Policy::Decoded { limit: 0 }, caches(MIB, 0, 1)));
    }

    #[test]
    fn sessions_of_one_file_count_once() {
        let (ledger, caches) = (ledger(), caches(2 * MIB, 480 * MIB, 2));
        let session = || -> Vec<Entry> { (0..4).map(|key| ledger.enter(key, 16 * MIB)).collect() };
        let sessions = [session(), session(), session()];
        for policy in
            [Policy::Auto { limit: NO_LIMIT }, Policy::Auto { limit: 64 * MIB }, Policy::Decoded { limit: 64 * MIB }]
        {
            assert!(sessions.iter().flatten().all(|entry| entry.decide(policy, caches)), "{policy:?}");
        }
        // Of what is decoded already, another session has a share whatever its limit.
        assert!(sessions[2][3].decide(Policy::Decoded { limit: MIB }, caches));
        assert!(!ledger.enter(4, 16 * MIB).decide(Policy::Auto { limit: NO_LIMIT }, caches));
    }

    #[test]
    fn sizes_are_read_as_linux_writes_them() {
        let folder = std::env::temp_dir().join(format!("mcd-caches-{}", std::process::id()));
        for (index, level, kind, size) in [
            (0, "1", "Data", "48K"),
            (1, "1", "Instruction", "64K"),
            (2, "2", "Unified", "2048K"),
            (3, "3", "Unified", "480M"),
        ] {
            let of = folder.join(format!("index{index}"));
            std::fs::create_dir_all(&of).unwrap();
            for (name, text) in [("level", level), ("type", kind), ("size", size)] {
                std::fs::write(of.join(name), format!("{text}\n")).unwrap();
            }
        }
        let found = Caches::read(&folder, 3);
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(found, caches(2 * MIB, 480 * MIB, 3));
        assert_eq!(Caches::read(&folder, 3), caches(UNKNOWN.0, UNKNOWN.1, 3));
        assert_eq!((bytes("12"), bytes("x"), bytes("99999999999999999999K")), (Some(12), None, None));
    }
}
