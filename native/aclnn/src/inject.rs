//! Failures on request: `MCD_ACLNN_FAIL=aclrtMalloc:2,aclrtMemcpy:1` makes the second allocation and the first copy fail.
//!
//! Names are those of the exported functions; `execution` stands for the queued work of the operator, whose failure
//! shows at the next synchronisation. Calls are counted from 1, over all threads.

use std::sync::{LazyLock, Mutex, PoisonError};

use crate::status::{Checked, Failure, Family, INVALID_PARAM, fail, report};

/// Queued work of the operator.
pub const EXECUTION: &str = "execution";

/// One failure to come.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    function: String,
    /// Calls until then, that one included.
    remaining: u64,
}

static PLANS: LazyLock<Mutex<Vec<Plan>>> = LazyLock::new(|| {
    let spec = std::env::var("MCD_ACLNN_FAIL").unwrap_or_default();
    let plans = parse(&spec).unwrap_or_else(|failure| {
        report(&format!("MCD_ACLNN_FAIL is ignored: {}", failure.message));
        Vec::new()
    });
    Mutex::new(plans)
});

/// Replaces all plans; an empty text removes them.
pub fn set(spec: &str) -> Checked<()> {
    *PLANS.lock().unwrap_or_else(PoisonError::into_inner) = parse(spec)?;
    Ok(())
}

/// Counts a call of a function, and fails when a plan says so.
pub fn check(family: Family, function: &str) -> Checked<()> {
    let mut plans = PLANS.lock().unwrap_or_else(PoisonError::into_inner);
    for at in 0..plans.len() {
        if plans[at].function == function {
            plans[at].remaining -= 1;
            if plans[at].remaining == 0 {
                plans.remove(at);
                return Err(Failure { code: family.inner(), message: "failed on request (MCD_ACLNN_FAIL)".into() });
            }
        }
    }
    Ok(())
}

fn parse(spec: &str) -> Checked<Vec<Plan>> {
    spec.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(|part| {
            let plan = part.split_once(':').and_then(|(function, count)| {
                Some(Plan {
                    function: function.to_owned(),
                    remaining: count.parse().ok().filter(|&count| count > 0)?,
                })
            });
            plan.map_or_else(|| fail(INVALID_PARAM, format!("{part:?} is not FUNCTION:N with N from 1")), Ok)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_are_function_and_count() {
        let plan = |function: &str, remaining| Plan { function: function.into(), remaining };
        assert_eq!(parse("").unwrap(), []);
        assert_eq!(parse("aclrtMalloc:2, execution:1").unwrap(), [plan("aclrtMalloc", 2), plan("execution", 1)]);
        for wrong in ["aclrtMalloc", "aclrtMalloc:0", "aclrtMalloc:-1", "aclrtMalloc:x"] {
            assert!(parse(wrong).unwrap_err().message.contains(wrong));
        }
    }
}
