//! What the weights of a session may take: session config entry `mcd.memory_limit`.
//!
//! A few bytes of a file can stand for a large weight. Each weight of a session with a limit takes its share of it before anything
//! is allocated for it, and where there is not enough left, that is an error with the numbers in it. Where there is a choice, as
//! of decoding a weight, only what is left is used.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::ffi::{Error, KernelInfo};

/// What is left of a session's limit.
#[derive(Debug)]
pub struct Account {
    limit: u64,
    taken: Mutex<u64>,
}

impl Account {
    fn new(limit: u64) -> Self {
        Self { limit, taken: Mutex::new(0) }
    }

    /// The account of a node's session, which lives as long as one of its weights; none without a limit.
    pub fn of_session(info: &KernelInfo<'_>, limit: u64) -> Result<Option<Arc<Self>>, Error> {
        static ACCOUNTS: Mutex<Vec<(usize, Weak<Account>)>> = Mutex::new(Vec::new());

        if limit == u64::MAX {
            return Ok(None);
        }
        // Sessions have a logger each; one that is gone may have left its logger's address to another.
        let logger = info.logger()?;
        let mut accounts = ACCOUNTS.lock().unwrap_or_else(PoisonError::into_inner);
        accounts.retain(|(_, account)| account.strong_count() > 0);
        let known = accounts.iter().find(|(known, _)| *known == logger).and_then(|(_, account)| account.upgrade());
        Ok(Some(known.unwrap_or_else(|| {
            let account = Arc::new(Self::new(limit));
            accounts.push((logger, Arc::downgrade(&account)));
            account
        })))
    }

    /// Takes so many bytes, if they are left.
    pub fn try_take(&self, bytes: u64) -> bool {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = taken.saturating_add(bytes);
        let fits = sum <= self.limit;
        if fits {
            *taken = sum;
        }
        fits
    }

    /// Takes so many bytes.
    pub fn take(&self, bytes: u64) -> Result<(), Error> {
        if self.try_take(bytes) { Ok(()) } else { Err(self.refusal(bytes)) }
    }

    /// Gives back what was taken.
    pub fn give_back(&self, bytes: u64) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        *taken = taken.saturating_sub(bytes);
    }

    /// Fails where so many bytes for the time of a call are more than what is left.
    pub fn check(&self, bytes: u64) -> Result<(), Error> {
        self.take(bytes).map(|()| self.give_back(bytes))
    }

    fn refusal(&self, bytes: u64) -> Error {
        let taken = *self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        exceeded(bytes, self.limit.saturating_sub(taken), self.limit)
    }
}

/// The error where a limit does not suffice.
pub fn exceeded(needed: u64, left: u64, limit: u64) -> Error {
    Error::device(format!(
        "out of memory: it needs {needed} bytes, and {left} are left of the {limit} that session config entry \
         mcd.memory_limit allows"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_shared_and_never_exceeded() {
        let account = Account::new(100);
        account.take(60).unwrap();
        account.check(40).unwrap();
        assert!(!account.try_take(41));
        let error = account.take(u64::MAX).unwrap_err().to_string();
        assert!(error.contains("40 are left of the 100") && error.contains("mcd.memory_limit"), "{error}");
        account.give_back(60);
        account.take(100).unwrap();
        assert!(account.check(1).is_err());
    }
}
