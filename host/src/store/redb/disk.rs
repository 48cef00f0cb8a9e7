//! A simulated disk under the engine, and what must hold whatever it does.
//!
//! The disk forgets at a power cut what was not synced, sector by sector and in no order, so that writes are lost, torn
//! and reordered. It runs full. A sync that fails may have written a part, and the system then believes that nothing is
//! left to write, as Linux does. And it flips bits. What must hold after each of these and a new start: what was
//! acknowledged is there, no transaction is there in part, and what was not acknowledged is there whole or not at all.
//! After flipped bits a start may be refused instead, but never answers with something else.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use ::redb::StorageBackend;
use proptest::prelude::*;

use super::file::open_checked;
use super::{Engine, GROUP, builder, fault, lock};
use crate::store::StoreError;
use crate::store::engine::{Bounds, Direction, MAX_RANGE, Row, Table};
use crate::store::tests::StandingClock;

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;
/// What a filesystem gives out at once.
const BLOCK: u64 = 4096;

/// A disk. Clones are the same one.
#[derive(Clone, Debug)]
struct Disk(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// What a power cut leaves.
    durable: Vec<u8>,
    /// What the system shows.
    seen: Vec<u8>,
    /// From the one to the other.
    pending: Vec<Change>,
    /// Blocks that were written once, and how many there can be.
    blocks: BTreeSet<u64>,
    capacity: usize,
    /// Changes until the power is cut, syncs until one fails.
    power_left: u64,
    syncs_left: u64,
    is_off: bool,
    dice: u64,
}

#[derive(Debug)]
enum Change {
    Write { offset: usize, data: Vec<u8> },
    Length(usize),
}

fn os_error(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

const ENOSPC: i32 = 28;
const EIO: i32 = 5;

impl State {
    /// SplitMix64.
    fn roll(&mut self) -> u64 {
        self.dice = self.dice.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.dice;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// No block more than those in use.
    fn set_full(&mut self) {
        self.capacity = self.blocks.len();
    }

    /// Spends one change. At the last one the power goes: of what is pending, with this change, some sectors arrive.
    fn change(&mut self, change: Change) -> io::Result<()> {
        if self.is_off {
            return Err(os_error(EIO));
        }
        change.apply(&mut self.seen);
        self.pending.push(change);
        self.spend()
    }

    fn spend(&mut self) -> io::Result<()> {
        if self.is_off {
            return Err(os_error(EIO));
        }
        match self.power_left.checked_sub(1) {
            Some(left) => {
                self.power_left = left;
                Ok(())
            }
            None => {
                self.arrive_in_part();
                self.is_off = true;
                Err(os_error(EIO))
            }
        }
    }

    /// Some of the pending sectors reach the disk, the others are forgotten.
    fn arrive_in_part(&mut self) {
        // All, none, or some: each is a case of its own.
        let share = self.roll() % 5;
        for change in std::mem::take(&mut self.pending) {
            match change {
                Change::Length(_) if self.roll() % 4 < share => change.apply(&mut self.durable),
                Change::Length(_) => {}
                Change::Write { offset, data } => {
                    for (at, sector) in data.chunks(SECTOR).enumerate() {
                        if self.roll() % 4 < share {
                            put(&mut self.durable, offset + at * SECTOR, sector);
                        }
                    }
                }
            }
        }
    }
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Length(length) => bytes.resize(*length, 0),
            Self::Write { offset, data } => put(bytes, *offset, data),
        }
    }
}

/// Writes, making the file longer where that is needed.
fn put(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    if bytes.len() < offset + data.len() {
        bytes.resize(offset + data.len(), 0);
    }
    bytes[offset..offset + data.len()].copy_from_slice(data);
}

impl Disk {
    fn new(seed: u64) -> Self {
        let state = State {
            durable: Vec::new(),
            seen: Vec::new(),
            pending: Vec::new(),
            blocks: BTreeSet::new(),
            capacity: usize::MAX,
            power_left: u64::MAX,
            syncs_left: u64::MAX,
            is_off: false,
            dice: seed,
        };
        Self(Arc::new(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }

    /// The machine runs (again), without faults, and sees what the disk has.
    fn power_on(&self) {
        let mut state = self.state();
        state.seen = state.durable.clone();
        state.pending.clear();
        state.is_off = false;
        (state.power_left, state.syncs_left, state.capacity) = (u64::MAX, u64::MAX, usize::MAX);
    }

    /// The program runs again on a machine that never stopped: it sees what it wrote, wherever that is.
    fn restart(&self) {
        let mut state = self.state();
        (state.power_left, state.syncs_left, state.capacity) = (u64::MAX, u64::MAX, usize::MAX);
    }

    /// Cuts the power now.
    fn cut(&self) {
        let mut state = self.state();
        if !state.is_off {
            state.arrive_in_part();
            state.is_off = true;
        }
    }

    async fn open(&self) -> Result<Engine, StoreError> {
        let disk = self.clone();
        let open = move || open_checked(builder(), |builder| builder.create_with_backend(disk.clone())).map_err(fault);
        Engine::start(Box::new(open), StandingClock::at(0).env(), GROUP).await
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        let state = self.state();
        if state.is_off { Err(os_error(EIO)) } else { Ok(state.seen.len() as u64) }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state();
        let offset = usize::try_from(offset).unwrap();
        let there = state.seen.get(offset..offset + out.len()).filter(|_| !state.is_off);
        out.copy_from_slice(there.ok_or_else(|| os_error(EIO))?);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        // Only a hole: no block is used yet.
        self.state().change(Change::Length(usize::try_from(length).unwrap()))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state();
        state.spend()?;
        match state.syncs_left.checked_sub(1) {
            Some(left) => state.syncs_left = left,
            None => {
                state.arrive_in_part();
                return Err(os_error(EIO));
            }
        }
        for change in std::mem::take(&mut state.pending) {
            change.apply(&mut state.durable);
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let mut room = 0;
        for block in offset / BLOCK..(offset + data.len() as u64).div_ceil(BLOCK) {
            if !state.blocks.contains(&block) {
                if state.blocks.len() >= state.capacity {
                    break;
                }
                state.blocks.insert(block);
            }
            room = usize::try_from(((block + 1) * BLOCK - offset).min(data.len() as u64)).unwrap();
        }
        let offset = usize::try_from(offset).unwrap();
        // What fits is written even so.
        state.change(Change::Write { offset, data: data[..room].to_vec() })?;
        if room < data.len() { Err(os_error(ENOSPC)) } else { Ok(()) }
    }
}

// The ledger: writers that each count up, in several rows at once, and move something between shared accounts.

const TABLE: Table = Table::Decisions;
const WRITERS: u8 = 6;
const ACCOUNTS: u8 = 5;
const START: u64 = 1_000;

/// For each writer the last count that was acknowledged.
#[derive(Debug, Default)]
struct Ledger {
    acknowledged: BTreeMap<u8, u64>,
    /// Counts whose transaction failed: they may be there.
    uncertain: BTreeMap<u8, u64>,
}

fn number(bytes: Option<&Vec<u8>>) -> u64 {
    bytes.map_or(0, |bytes| u64::from_be_bytes(bytes[..8].try_into().unwrap()))
}

/// A row of a writer. They differ in size, and some are larger than a page.
fn value(count: u64, part: u8) -> Vec<u8> {
    count.to_be_bytes().repeat(1 + usize::from(part) * 400)
}

async fn set_up(engine: &Engine) -> Result<(), StoreError> {
    engine.write(|tx| (0..ACCOUNTS).try_for_each(|account| tx.put(TABLE, &[b'a', account], &START.to_be_bytes()))).await
}

/// One transaction of a writer: its count in three rows, a note that is taken out again later, and a transfer.
async fn count_up(engine: &Engine, writer: u8, count: u64) -> Result<(), StoreError> {
    engine
        .write(move |tx| {
            for part in 0..3 {
                tx.put(TABLE, &[b'w', writer, part], &value(count, part))?;
            }
            tx.put(TABLE, &[&[b'n', writer], &count.to_be_bytes()[..]].concat(), &[writer; 300])?;
            tx.remove(TABLE, &[&[b'n', writer], &count.saturating_sub(4).to_be_bytes()[..]].concat())?;
            let (from, to) = ([b'a', writer % ACCOUNTS], [b'a', (writer + 1) % ACCOUNTS]);
            let (have, has) = (number(tx.get(TABLE, &from)?.as_ref()), number(tx.get(TABLE, &to)?.as_ref()));
            tx.put(TABLE, &from, &(have.wrapping_sub(count)).to_be_bytes())?;
            tx.put(TABLE, &to, &(has.wrapping_add(count)).to_be_bytes())
        })
        .await
}

impl Ledger {
    /// Lets all writers count until something fails, or so often.
    async fn work(&mut self, engine: &Engine, rounds: u64) {
        let writers = (0..WRITERS).map(|writer| {
            let from = self.acknowledged.get(&writer).copied().unwrap_or(0);
            async move {
                for count in from + 1..=from + rounds {
                    if count_up(engine, writer, count).await.is_err() {
                        return (writer, count - 1, Some(count));
                    }
                }
                (writer, from + rounds, None)
            }
        });
        for (writer, acknowledged, uncertain) in futures_util::future::join_all(writers).await {
            self.acknowledged.insert(writer, acknowledged);
            self.uncertain.extend(uncertain.map(|count| (writer, count)));
        }
    }

    /// Compares with what is there, and goes on from that.
    async fn check(&mut self, engine: &Engine) -> Result<(), StoreError> {
        let rows = all(engine).await?;
        let rows: BTreeMap<Vec<u8>, Vec<u8>> = rows.into_iter().collect();
        let sum = (0..ACCOUNTS).fold(0_u64, |sum, account| sum.wrapping_add(number(rows.get(&[b'a', account][..]))));
        assert_eq!(sum, START * u64::from(ACCOUNTS), "a transfer is there in part");
        for writer in 0..WRITERS {
            let count = number(rows.get(&[b'w', writer, 0][..]));
            let acknowledged = self.acknowledged.get(&writer).copied().unwrap_or(0);
            let uncertain = self.uncertain.get(&writer).copied();
            let is_known = count == acknowledged || Some(count) == uncertain;
            assert!(is_known, "writer {writer} has {count}; acknowledged {acknowledged}, uncertain {uncertain:?}");
            for part in 0..3 {
                let there = rows.get(&[b'w', writer, part][..]);
                assert!(count == 0 || there == Some(&value(count, part)), "writer {writer} is there in part");
            }
            let notes: Vec<u64> = rows
                .keys()
                .filter(|key| key.starts_with(&[b'n', writer]))
                .map(|key| u64::from_be_bytes(key[2..].try_into().unwrap()))
                .collect();
            let expected: Vec<u64> = (count.saturating_sub(3).max(1)..=count).collect();
            assert_eq!(notes, expected, "the notes of writer {writer} at {count}");
            self.acknowledged.insert(writer, count);
        }
        self.uncertain.clear();
        Ok(())
    }
}

async fn all(engine: &Engine) -> Result<Vec<Row>, StoreError> {
    engine.read(|tx| tx.range(TABLE, &Bounds::all(), Direction::Forward, MAX_RANGE)).await
}

/// How a life of the engine ends.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// In order.
    None,
    /// Without any order, between two changes of the disk.
    PowerCut { after: u64 },
    /// A sync fails. Then the program starts again; or the power is cut as well.
    Sync { after: u64, then_cut: bool },
    /// No more blocks than these. Then there are more again, and the program starts again, or goes on.
    Full { blocks: usize, then_cut: bool },
}

fn faults() -> impl Strategy<Value = Fault> {
    prop_oneof![
        1 => Just(Fault::None),
        6 => (0_u64..120).prop_map(|after| Fault::PowerCut { after }),
        3 => (0_u64..20, any::<bool>()).prop_map(|(after, then_cut)| Fault::Sync { after, then_cut }),
        3 => (0_usize..60, any::<bool>()).prop_map(|(blocks, then_cut)| Fault::Full { blocks, then_cut }),
    ]
}

async fn live(disk: &Disk, ledger: &mut Ledger, fault: Fault, during_start: bool) {
    let inject = || {
        let mut state = disk.state();
        match fault {
            Fault::None => {}
            Fault::PowerCut { after } => state.power_left = after,
            Fault::Sync { after, .. } => state.syncs_left = after,
            Fault::Full { blocks, .. } => state.capacity = state.blocks.len() + blocks,
        }
    };
    if during_start {
        inject();
    }
    // A start that meets the fault may fail; one that comes after it may not, and that is checked below.
    if let Ok(engine) = disk.open().await {
        if !during_start {
            inject();
        }
        ledger.work(&engine, 6).await;
        engine.close().await;
    }
    let cuts = matches!(
        fault,
        Fault::PowerCut { .. } | Fault::Sync { then_cut: true, .. } | Fault::Full { then_cut: true, .. }
    );
    if cuts {
        disk.cut();
        disk.power_on();
    } else {
        disk.restart();
    }
    let engine = disk.open().await.unwrap_or_else(|failure| panic!("after {fault:?} the store is lost: {failure:?}"));
    ledger.check(&engine).await.unwrap_or_else(|failure| panic!("after {fault:?}: {failure:?}"));
    engine.close().await;
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn whatever_the_disk_does_what_was_acknowledged_is_there_and_nothing_is_there_in_part(
        seed in any::<u64>(),
        lives in prop::collection::vec((faults(), prop::bool::weighted(0.2)), 1..5),
    ) {
        run(async {
            let disk = Disk::new(seed);
            let engine = disk.open().await.unwrap();
            set_up(&engine).await.unwrap();
            engine.close().await;
            let mut ledger = Ledger::default();
            for (fault, during_start) in lives {
                live(&disk, &mut ledger, fault, during_start).await;
            }
        });
    }
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_takes_them_again_without_a_restart() {
    let disk = Disk::new(1);
    let engine = disk.open().await.unwrap();
    set_up(&engine).await.unwrap();
    let mut ledger = Ledger::default();
    ledger.work(&engine, 3).await;
    disk.state().set_full();
    // Rows that stay, after all others in key order: sooner or later there is no block for one.
    let mut filled = 0;
    while engine.write(move |tx| tx.put(TABLE, &[b'z', filled], &[filled; 60_000])).await.is_ok() {
        filled += 1;
        assert!(filled < 250, "the disk is full");
    }
    ledger.work(&engine, 1).await;
    disk.restart();
    let patience = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
    // Until the writer has opened the store again, it refuses, while readers see what there was.
    while engine.write(|tx| tx.put(TABLE, b"z", b"")).await.is_err() {
        assert!(tokio::time::Instant::now() < patience, "the store comes back");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    ledger.check(&engine).await.unwrap();
    ledger.work(&engine, 3).await;
    assert!(ledger.uncertain.is_empty(), "writes are taken again");
    for kept in 0..filled {
        let row = engine.read(move |tx| tx.get(TABLE, &[b'z', kept])).await.unwrap();
        assert_eq!(row.as_deref(), Some([kept; 60_000].as_slice()));
    }
    ledger.check(&engine).await.unwrap();
    engine.close().await;
}

/// Bits of the file's beginning, where redb keeps its own books, and of pages anywhere.
#[tokio::test]
async fn a_flipped_bit_stops_the_start_or_changes_nothing() {
    let disk = Disk::new(2);
    let engine = disk.open().await.unwrap();
    set_up(&engine).await.unwrap();
    let mut ledger = Ledger::default();
    ledger.work(&engine, 8).await;
    let expected = all(&engine).await.unwrap();
    engine.close().await;
    disk.cut();
    let good = disk.state().durable.clone();

    let written = good.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let book = (0..BLOCK_OF_BOOKS * 8).map(|bit| (bit / 8, bit % 8));
    let anywhere: Vec<(usize, usize)> = {
        let mut state = disk.state();
        (0..400).map(|_| (state.roll() as usize % written, state.roll() as usize % 8)).collect()
    };
    let (mut refused, mut harmless, mut wrong) = (0, 0, Vec::new());
    for (byte, bit) in book.chain(anywhere) {
        disk.state().durable.clone_from(&good);
        disk.state().durable[byte] ^= 1 << bit;
        disk.power_on();
        match disk.open().await {
            Err(_) => refused += 1,
            Ok(engine) => {
                match all(&engine).await {
                    Err(_) => refused += 1,
                    Ok(rows) if rows == expected => harmless += 1,
                    Ok(_) => wrong.push((byte, bit)),
                }
                engine.close().await;
            }
        }
    }
    assert!(wrong.is_empty(), "something else was answered after flips of {wrong:?}");
    assert!(refused > 100 && harmless > 100, "{refused} refused, {harmless} harmless");
}

/// redb's header with both commit slots.
const BLOCK_OF_BOOKS: usize = 320;
