//! Random numbers that follow from where they began, for faults and callers that can be repeated.

use std::time::Duration;

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The dice of one participant; the same numbers for the same two.
    #[must_use]
    pub fn new(seed: u64, participant: u64) -> Self {
        let mut dice = Self(seed ^ participant.wrapping_mul(0xD1B5_4A32_D192_ED03));
        dice.roll();
        dice
    }

    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`; 0 where that is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.roll() % end.max(1)
    }

    /// True in this share of all cases, from 0 to 1.
    pub fn chance(&mut self, share: f64) -> bool {
        // 53 bits are what a float holds.
        ((self.roll() >> 11) as f64) < share * (1_u64 << 53) as f64
    }

    /// One of these, if there are any.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> Option<&'a T> {
        let at = self.below(choices.len() as u64);
        usize::try_from(at).ok().and_then(|at| choices.get(at))
    }

    /// Between half of `longest` and all of it.
    pub fn wait(&mut self, longest: Duration) -> Duration {
        let half = longest / 2;
        half + Duration::from_micros(self.below(u64::try_from(half.as_micros()).unwrap_or(u64::MAX)))
    }

    pub fn noise(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.roll().to_le_bytes()[0]).collect()
    }
}
