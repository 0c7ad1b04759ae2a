//! What is said of a weight beside its code: its type, and the profile asked for.

/// Names a trade between size and speed; the format is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Profile {
    /// No levels: root field and escapes only.
    Fast,
    /// Enough levels to be near the entropy.
    #[default]
    Balanced,
    /// As many levels as pay for themselves.
    Small,
}

impl Profile {
    /// The profile of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "fast" => Self::Fast,
            "balanced" => Self::Balanced,
            "small" => Self::Small,
            _ => return None,
        })
    }

    /// As given on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Balanced => "balanced",
            Self::Small => "small",
        }
    }
}

/// Type of the weights as the model sees them. Inside, a weight is the *symbol* `u8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightType {
    /// Two's complement; symbol = weight + 128.
    I8,
    /// Symbol = weight.
    U8,
}

impl WeightType {
    /// Turns a weight byte into a symbol, and back: the one place where the sign is shifted.
    #[inline]
    pub fn flip(self) -> u8 {
        match self {
            Self::I8 => 0x80,
            Self::U8 => 0,
        }
    }

    /// What a symbol exceeds its weight by.
    #[inline]
    pub fn offset(self) -> i32 {
        i32::from(self.flip())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_by_name() {
        let names = ["fast", "balanced", "small", "none"];
        let profiles = [Some(Profile::Fast), Some(Profile::Balanced), Some(Profile::Small), None];
        assert_eq!(names.map(Profile::from_name), profiles);
        assert_eq!(profiles.map(|profile| profile.map_or("none", Profile::name)), names);
    }

    #[test]
    fn int8_is_shifted() {
        assert_eq!([WeightType::I8, WeightType::U8].map(WeightType::flip), [0x80, 0]);
        assert_eq!([WeightType::I8, WeightType::U8].map(WeightType::offset), [128, 0]);
    }
}
