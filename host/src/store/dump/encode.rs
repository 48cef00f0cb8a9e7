//! A store becomes a dump, piece by piece.

use std::collections::VecDeque;

use aws_lc_rs::digest;
use bytes::{BufMut as _, Bytes, BytesMut};

use super::{Content, END, HEADER, Header, MAGIC, ROW, Summary, TABLE, VERSION, finished, length};
use crate::env::Timestamp;
use crate::store::changes::LAST;
use crate::store::engine::Table;
use crate::store::export::{Batch, Export};
use crate::store::migrations::{DEPLOYMENT, STORED_SCHEMA};
use crate::store::table::unreadable;
use crate::store::{Store, StoreError};

/// Most rows of the table `meta`, which holds single values.
const MAX_META: usize = 10_000;

/// A dump that is being written.
pub struct Dump {
    export: Export,
    /// What was read ahead, for the header.
    ahead: VecDeque<Batch>,
    header: Option<Header>,
    table: Option<Table>,
    content: Content,
    all: digest::Context,
    has_ended: bool,
}

impl Dump {
    /// Begins a dump of the store's present state.
    pub async fn of(store: &Store, now: Timestamp) -> Result<Self, StoreError> {
        let mut export = store.export().await?;
        let mut ahead = VecDeque::new();
        let mut meta = Vec::new();
        while let Some(batch) = export.next().await? {
            let is_meta = batch.table == Table::Meta;
            if is_meta {
                meta.extend_from_slice(&batch.rows);
            }
            if meta.len() > MAX_META {
                return Err(unreadable(Table::Meta, "it has more rows than there are single values"));
            }
            ahead.push_back(batch);
            if !is_meta {
                break;
            }
        }
        let header = Header {
            schema: STORED_SCHEMA.among(&meta)?.unwrap_or_default(),
            revision: LAST.among(&meta)?.unwrap_or_default().number(),
            deployment: DEPLOYMENT.among(&meta)?.map(|deployment| deployment.to_string()),
            taken_ms: now.as_millis(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        Ok(Self {
            export,
            ahead,
            header: Some(header),
            table: None,
            content: Content::new(),
            all: digest::Context::new(&digest::SHA256),
            has_ended: false,
        })
    }

    /// The next bytes, or `None` after the last ones. After an error there are no more.
    pub async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        if self.has_ended {
            return Ok(None);
        }
        let mut out = BytesMut::new();
        if let Some(header) = self.header.take() {
            begin(&mut out, &header);
        }
        let batch = match self.ahead.pop_front() {
            Some(batch) => Some(batch),
            None => self.export.next().await.inspect_err(|_| self.has_ended = true)?,
        };
        match batch {
            Some(batch) => self.rows(&mut out, &batch),
            None => {
                self.has_ended = true;
                let Summary { rows, digest } = self.content.summary();
                out.put_u8(END);
                out.put_u64(rows);
                out.put_slice(digest.as_bytes());
            }
        }
        self.all.update(&out);
        if self.has_ended {
            out.put_slice(finished(self.all.clone()).as_bytes());
        }
        Ok(Some(out.freeze()))
    }

    fn rows(&mut self, out: &mut BytesMut, batch: &Batch) {
        if self.table != Some(batch.table) {
            self.table = Some(batch.table);
            let name = batch.table.name();
            out.put_u8(TABLE);
            out.put_u16(batch.table.number());
            out.put_u8(u8::try_from(name.len()).expect("names of tables are short"));
            out.put_slice(name.as_bytes());
        }
        for (key, value) in &batch.rows {
            self.content.row(batch.table, key, value);
            out.put_u8(ROW);
            out.put_u16(u16::try_from(key.len()).expect("a key has at most 1 KiB"));
            out.put_slice(key);
            out.put_u32(length(value));
            out.put_slice(value);
        }
    }
}

fn begin(out: &mut BytesMut, header: &Header) {
    let header = serde_json::to_vec(header).expect("a header is numbers and strings");
    out.put_slice(MAGIC);
    out.put_u16(VERSION);
    out.put_u8(HEADER);
    out.put_u32(length(&header));
    out.put_slice(&header);
}

impl std::fmt::Debug for Dump {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Dump")
    }
}
