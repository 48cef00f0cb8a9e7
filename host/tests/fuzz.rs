//! The fuzz targets on their seeds and on many small changes of them: what a fuzzer would find first is found here. Longer runs
//! are `tests/fuzz`.

use std::path::Path;

use portcullis::policy::fuzzing::{self, TARGETS};

/// Changes of each seed.
const CHANGES: usize = 400;

/// A generator of numbers that are the same in every run (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).expect("it is below a usize")
    }

    /// A seed with one to four bytes changed, removed, or repeated.
    fn changed(&mut self, seed: &[u8]) -> Vec<u8> {
        let mut bytes = seed.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            match self.below(4) {
                0 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                1 if !bytes.is_empty() => drop(bytes.remove(at)),
                2 => bytes.insert(at, b"\0\xff\"{}[]0,9"[self.below(10)]),
                _ => {
                    let end = (at + 1 + self.below(32)).min(bytes.len());
                    let piece = bytes[at..end].to_vec();
                    bytes.splice(at..at, piece);
                }
            }
        }
        bytes
    }
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/seeds").join(target);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    files.map(|file| std::fs::read(file.expect("a readable directory").path()).expect("a readable seed")).collect()
}

#[test]
fn no_bytes_of_strangers_break_a_reader() {
    for (name, target) in TARGETS {
        if name == "core_module" {
            continue;
        }
        let seeds = seeds(name);
        assert!(!seeds.is_empty(), "{name} has no seed");
        for seed in &seeds {
            target(seed);
            let mut numbers = Numbers(1);
            for _ in 0..CHANGES {
                target(&numbers.changed(seed));
            }
        }
    }
}

#[test]
fn no_core_module_breaks_the_encoder() {
    let text = include_str!("../../tests/fixtures/policies/traps.wat");
    let module = wat::parse_str(text).expect("a fixture is text of a module");
    fuzzing::core_module(&module);
    let mut numbers = Numbers(2);
    for _ in 0..CHANGES {
        fuzzing::core_module(&numbers.changed(&module));
    }
}
