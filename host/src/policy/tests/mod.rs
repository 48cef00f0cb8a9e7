//! The policy layer as a whole: real modules in the real engine, from bytes to refusals.

mod authority;
mod bindings;
mod cache;
mod contract;
mod enforcement;
mod frozen;
mod guest;
mod hostile;
mod imports;
mod items;
mod lanes;
mod loading;
mod prebuilt;
mod publish;
mod scene;
mod shadow;
mod visible;
