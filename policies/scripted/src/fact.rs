//! Facts: what a rule can look at, member by member, and made only when it is looked at.
//!
//! The contract's records are typed and hold JSON texts; interpreters want trees of values. A [`Fact`] is one node of such a
//! tree that still points into the record. Its [`Shape`] is known without a record, so that a misspelt name in a rule is
//! found before the rule is ever evaluated.

/// One node.
pub enum Fact<'a> {
    /// There is no such member here, or its option is empty.
    Absent,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Number(u64),
    /// A string, and the name of an enumeration's case.
    Text(&'a str),
    /// JSON text.
    Json(&'a str),
    /// Nodes in order.
    List(Vec<Fact<'a>>),
    /// A node with named members.
    Record(&'a dyn Members),
}

/// A node with named members.
pub trait Members: Send + Sync {
    /// The names of all members that there can be.
    fn names(&self) -> &'static [&'static str];

    /// The member of this name.
    fn member(&self, name: &str) -> Fact<'_>;
}

/// What is known of a node beforehand.
#[derive(Debug, PartialEq)]
pub enum Shape {
    /// Anything: JSON that somebody else wrote.
    Any,
    /// A string, a number or a boolean.
    Scalar,
    /// Nodes of this shape.
    List(&'static Shape),
    /// These members, some of which may be absent.
    Record(&'static [(&'static str, &'static Shape)]),
}

impl<'a> Fact<'a> {
    /// What `path`, names joined by dots, leads to from here, or none where it ends in nothing or in JSON on its way.
    pub fn at(self, path: &str) -> Option<Self> {
        path.split('.').try_fold(self, |fact, name| match fact {
            Fact::Record(record) => match record.member(name) {
                Fact::Absent => None,
                member => Some(member),
            },
            _ => None,
        })
    }
}

/// A type of the contract whose values are facts.
pub(crate) trait Look {
    /// What it is in Rust; differs for JSON, which is text there.
    type Of: ?Sized;
    const SHAPE: &'static Shape;

    fn fact(of: &Self::Of) -> Fact<'_>;
}

/// The contract's `json`.
pub(crate) struct Json;

impl Look for Json {
    type Of = String;
    const SHAPE: &'static Shape = &Shape::Any;

    fn fact(of: &String) -> Fact<'_> {
        Fact::Json(of)
    }
}

impl Look for String {
    type Of = Self;
    const SHAPE: &'static Shape = &Shape::Scalar;

    fn fact(of: &Self) -> Fact<'_> {
        Fact::Text(of)
    }
}

impl Look for bool {
    type Of = Self;
    const SHAPE: &'static Shape = &Shape::Scalar;

    fn fact(of: &Self) -> Fact<'_> {
        Fact::Bool(*of)
    }
}

impl Look for u32 {
    type Of = Self;
    const SHAPE: &'static Shape = &Shape::Scalar;

    fn fact(of: &Self) -> Fact<'_> {
        Fact::Number(u64::from(*of))
    }
}

impl Look for u64 {
    type Of = Self;
    const SHAPE: &'static Shape = &Shape::Scalar;

    fn fact(of: &Self) -> Fact<'_> {
        Fact::Number(*of)
    }
}

impl<T: Look<Of: Sized>> Look for Option<T> {
    type Of = Option<T::Of>;
    const SHAPE: &'static Shape = T::SHAPE;

    fn fact(of: &Option<T::Of>) -> Fact<'_> {
        of.as_ref().map_or(Fact::Absent, T::fact)
    }
}

impl<T: Look<Of: Sized>> Look for Vec<T> {
    type Of = Vec<T::Of>;
    const SHAPE: &'static Shape = &Shape::List(T::SHAPE);

    fn fact(of: &Vec<T::Of>) -> Fact<'_> {
        Fact::List(of.iter().map(T::fact).collect())
    }
}
