//! The policy layer as a whole: real modules in the real engine, from bytes to refusals.

mod enforcement;
mod guest;
mod hostile;
mod loading;
mod prebuilt;
mod scene;
