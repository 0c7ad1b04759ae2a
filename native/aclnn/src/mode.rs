//! What the environment asks for: which of the two is followed where the operator's document and its public
//! implementation disagree, and whether refusals are printed.

use std::sync::OnceLock;

/// Whether `MCD_ACLNN_STRICT=1` asks for the implementation's behaviour; settled at the first question.
pub fn strict() -> bool {
    static STRICT: OnceLock<bool> = OnceLock::new();
    *STRICT.get_or_init(|| std::env::var("MCD_ACLNN_STRICT").is_ok_and(|value| value == "1"))
}

/// Whether `MCD_ACLNN_QUIET=1` keeps refusals off standard error, for programs that print them themselves.
pub fn quiet() -> bool {
    static QUIET: OnceLock<bool> = OnceLock::new();
    *QUIET.get_or_init(|| std::env::var("MCD_ACLNN_QUIET").is_ok_and(|value| value == "1"))
}
