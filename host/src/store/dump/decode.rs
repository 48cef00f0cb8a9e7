//! A dump becomes rows again. No store is needed: whoever copies a dump checks it with this.

use aws_lc_rs::digest;
use bytes::{Buf as _, Bytes, BytesMut};

use super::{Content, DumpError, END, HEADER, Header, MAGIC, MAX_HEADER, ROW, Summary, TABLE, VERSION, finished};
use crate::secret::Digest;
use crate::store::SCHEMA;
use crate::store::engine::{MAX_KEY_BYTES, MAX_VALUE_BYTES, Table};

/// One thing that a dump tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// First.
    Header(Header),
    Row(Table, Bytes, Bytes),
    /// Last: everything was there and nothing was changed.
    End(Summary),
}

/// Reads a dump from pieces of any size.
pub struct Decoder {
    waiting: BytesMut,
    state: State,
    content: Content,
    all: digest::Context,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Begin,
    Header,
    /// The table of the rows that come, and the last key.
    Rows(Option<(Table, Option<Bytes>)>),
    End,
}

const fn damaged(problem: &'static str) -> DumpError {
    DumpError::Damaged { problem }
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            waiting: BytesMut::new(),
            state: State::Begin,
            content: Content::new(),
            all: digest::Context::new(&digest::SHA256),
        }
    }
}

impl Decoder {
    /// Adds the next bytes of the dump. Take the items out before adding more: they bound what waits here.
    pub fn add(&mut self, bytes: &[u8]) {
        self.waiting.extend_from_slice(bytes);
    }

    /// The next item, or `None` if that needs more bytes.
    pub fn item(&mut self) -> Result<Option<Item>, DumpError> {
        loop {
            match &self.state {
                State::Begin => match self.begin()? {
                    true => self.state = State::Header,
                    false => return Ok(None),
                },
                State::Header => {
                    let header = self.header()?;
                    if header.is_some() {
                        self.state = State::Rows(None);
                    }
                    return Ok(header.map(Item::Header));
                }
                State::Rows(_) => match self.waiting.first() {
                    None => return Ok(None),
                    Some(&TABLE) => {
                        if !self.table()? {
                            return Ok(None);
                        }
                    }
                    Some(&ROW) => return self.row(),
                    Some(&END) => return self.end(),
                    Some(_) => return Err(damaged("there is something unknown between the rows")),
                },
                State::End if self.waiting.is_empty() => return Ok(None),
                State::End => return Err(damaged("something follows its end")),
            }
        }
    }

    /// Whether everything was there, once there are no more bytes.
    pub fn finish(&self) -> Result<(), DumpError> {
        match self.state {
            State::End if self.waiting.is_empty() => Ok(()),
            State::End => Err(damaged("something follows its end")),
            State::Begin if self.waiting.is_empty() => Err(DumpError::NotADump),
            _ => Err(DumpError::CutShort),
        }
    }

    /// Takes these many bytes of what waits.
    fn take(&mut self, count: usize) -> Bytes {
        let taken = self.waiting.split_to(count).freeze();
        self.all.update(&taken);
        taken
    }

    fn begin(&mut self) -> Result<bool, DumpError> {
        let known = self.waiting.len().min(MAGIC.len());
        if self.waiting[..known] != MAGIC[..known] {
            return Err(DumpError::NotADump);
        }
        if self.waiting.len() < MAGIC.len() + 2 {
            return Ok(false);
        }
        let found = self.take(MAGIC.len() + 2).slice(MAGIC.len()..).get_u16();
        if found == VERSION { Ok(true) } else { Err(DumpError::Format { found }) }
    }

    fn header(&mut self) -> Result<Option<Header>, DumpError> {
        let Some(mut lengths) = self.peek(5) else { return Ok(None) };
        if lengths.get_u8() != HEADER {
            return Err(damaged("it has no header"));
        }
        let length = lengths.get_u32() as usize;
        if length > MAX_HEADER {
            return Err(damaged("its header is too long"));
        }
        if self.waiting.len() < 5 + length {
            return Ok(None);
        }
        let header: Header =
            serde_json::from_slice(&self.take(5 + length)[5..]).map_err(|_| damaged("its header is not readable"))?;
        if header.schema > SCHEMA {
            return Err(DumpError::NewerSchema { found: header.schema, known: SCHEMA });
        }
        Ok(Some(header))
    }

    /// Whether the frame of a table was complete.
    fn table(&mut self) -> Result<bool, DumpError> {
        let Some(mut lengths) = self.peek(4) else { return Ok(false) };
        lengths.advance(1);
        let (number, length) = (lengths.get_u16(), usize::from(lengths.get_u8()));
        if self.waiting.len() < 4 + length {
            return Ok(false);
        }
        let name = self.take(4 + length).slice(4..);
        let known = Table::ALL.iter().find(|table| table.number() == number && table.name().as_bytes() == name);
        let Some(table) = known else {
            return Err(DumpError::UnknownTable { name: String::from_utf8_lossy(&name).into_owned() });
        };
        if let State::Rows(Some((before, _))) = &self.state
            && before.number() >= number
        {
            return Err(damaged("its tables are out of order"));
        }
        self.state = State::Rows(Some((*table, None)));
        Ok(true)
    }

    fn row(&mut self) -> Result<Option<Item>, DumpError> {
        let State::Rows(Some((table, last))) = &self.state else {
            return Err(damaged("a row is in no table"));
        };
        let Some(mut lengths) = self.peek(3) else { return Ok(None) };
        lengths.advance(1);
        let key_length = usize::from(lengths.get_u16());
        if key_length > MAX_KEY_BYTES {
            return Err(damaged("a key is too long"));
        }
        let Some(mut lengths) = self.peek(3 + key_length + 4) else { return Ok(None) };
        lengths.advance(3 + key_length);
        let value_length = lengths.get_u32() as usize;
        if value_length > MAX_VALUE_BYTES {
            return Err(damaged("a value is too long"));
        }
        let whole = 3 + key_length + 4 + value_length;
        if self.waiting.len() < whole {
            return Ok(None);
        }
        let (table, last) = (*table, last.clone());
        let row = self.take(whole);
        let key = row.slice(3..3 + key_length);
        let value = row.slice(3 + key_length + 4..);
        if last.is_some_and(|last| last >= key) {
            return Err(damaged("its rows are out of order"));
        }
        self.content.row(table, &key, &value);
        self.state = State::Rows(Some((table, Some(key.clone()))));
        Ok(Some(Item::Row(table, key, value)))
    }

    fn end(&mut self) -> Result<Option<Item>, DumpError> {
        if self.waiting.len() < 1 + 8 + 32 + 32 {
            return Ok(None);
        }
        let mut told = self.take(1 + 8 + 32).slice(1..);
        let summary = Summary { rows: told.get_u64(), digest: digest_in(&told) };
        let all = finished(self.all.clone());
        if digest_in(&self.take(32)) != all {
            return Err(damaged("its bytes are not those that were written"));
        }
        if self.content.summary() != summary {
            return Err(damaged("its rows are not those that were written"));
        }
        self.state = State::End;
        Ok(Some(Item::End(summary)))
    }

    /// The next `count` bytes, if they are there, left where they are.
    fn peek(&self, count: usize) -> Option<&[u8]> {
        self.waiting.get(..count)
    }
}

fn digest_in(bytes: &[u8]) -> Digest {
    let mut digest = [0; 32];
    digest.copy_from_slice(&bytes[..32]);
    Digest::from_bytes(digest)
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Decoder({:?})", self.state)
    }
}
