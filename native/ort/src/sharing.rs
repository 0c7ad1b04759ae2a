//! What the sessions of a process share: made once for all that need the same, and dropped with the last of them.

use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Values by their keys, none of which is kept alive from here.
#[derive(Debug)]
pub struct Shared<K, T>(Mutex<Vec<(K, Weak<T>)>>);

impl<K: PartialEq, T> Shared<K, T> {
    pub const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// A value of this key that somebody has and that `fits`, or else one that is made. A key is but a hint.
    ///
    /// One at a time: of two sessions that begin at once, the second finds what the first has made.
    pub fn get_or_make<E>(
        &self,
        key: K,
        fits: impl Fn(&T) -> Result<bool, E>,
        make: impl FnOnce() -> Result<T, E>,
    ) -> Result<Arc<T>, E> {
        let mut values = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        values.retain(|(_, value)| value.strong_count() > 0);
        let of_key = values.iter().filter(|(other, _)| *other == key);
        for value in of_key.filter_map(|(_, value)| value.upgrade()) {
            if fits(&value)? {
                return Ok(value);
            }
        }
        let made = Arc::new(make()?);
        values.push((key, Arc::downgrade(&made)));
        Ok(made)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A value from `shared` that is equal to `wanted`.
    fn get(shared: &Shared<u8, String>, key: u8, wanted: &str) -> Arc<String> {
        shared.get_or_make(key, |found| Ok::<_, ()>(found == wanted), || Ok(wanted.to_owned())).unwrap()
    }

    #[test]
    fn what_is_the_same_is_made_once_and_dropped_with_the_last() {
        let shared = Shared::new();
        let (first, second) = (get(&shared, 1, "weight"), get(&shared, 1, "weight"));
        assert!(Arc::ptr_eq(&first, &second));
        let gone = Arc::downgrade(&first);
        drop(first);
        assert!(gone.upgrade().is_some());
        drop(second);
        assert!(gone.upgrade().is_none());
        assert_eq!(Arc::strong_count(&get(&shared, 1, "weight")), 1);
    }

    #[test]
    fn a_key_alone_shares_nothing() {
        let shared = Shared::new();
        let values = [get(&shared, 1, "weight"), get(&shared, 1, "forged"), get(&shared, 2, "weight")];
        assert!(!Arc::ptr_eq(&values[0], &values[1]) && !Arc::ptr_eq(&values[0], &values[2]));
        assert!(Arc::ptr_eq(&values[1], &get(&shared, 1, "forged")));
    }

    #[test]
    fn an_error_leaves_nothing_behind() {
        let shared = Shared::new();
        assert_eq!(shared.get_or_make(1, |_: &String| Ok(true), || Err("damaged")), Err("damaged"));
        let value = get(&shared, 1, "weight");
        assert_eq!(shared.get_or_make(1, |_| Err("damaged"), || Ok(String::new())), Err("damaged"));
        assert!(Arc::ptr_eq(&value, &get(&shared, 1, "weight")));
    }

    #[test]
    fn threads_that_begin_at_once_share_one() {
        let (shared, made) = (Shared::new(), AtomicU32::new(0));
        let all: Vec<Arc<u32>> = std::thread::scope(|scope| {
            let get = || {
                let make = || Ok::<_, ()>(made.fetch_add(1, Ordering::Relaxed));
                shared.get_or_make(0, |_| Ok(true), make).unwrap()
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(get)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(all.iter().all(|one| Arc::ptr_eq(one, &all[0])));
        assert_eq!(made.into_inner(), 1);
    }
}
