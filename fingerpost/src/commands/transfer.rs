//! `export` and `import`: a registry's whole content as a file.

use super::Context;
use crate::cli::{ExportArgs, ImportArgs};
use anyhow::{Context as _, bail};
use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use serde::Serialize;
use std::path::{Path, PathBuf};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Bytes read at a time.
const PORTION: usize = 64 << 10;

pub(super) async fn export(context: &Context, args: ExportArgs) -> anyhow::Result<()> {
    let records = context.registry.export().await.context("can't export")?;
    let Some(path) = args.file.filter(|path| path.as_os_str() != "-") else {
        write(records, &mut tokio::io::stdout()).await?;
        return Ok(());
    };
    // Under another name until it is whole: half an export must not pass for one, nor take an older one's place.
    let part = PathBuf::from(format!("{}.part", path.display()));
    let written = write_file(records, &part).await;
    let lines = match written {
        Ok(lines) => lines,
        Err(error) => {
            // The reason is what counts; a part that can't be removed either is named in it.
            let _ = tokio::fs::remove_file(&part).await;
            return Err(error.context(format!("can't export to {}", path.display())));
        }
    };
    tokio::fs::rename(&part, &path).await.with_context(|| format!("can't rename {} to its place", part.display()))?;
    // The first line is the header.
    // The first line and the last are about the export itself.
    let records = super::status::counted(lines.saturating_sub(2), "record");
    context.output.note(&format!("{records} written to {}", path.display()));
    Ok(())
}

async fn write_file(records: BoxStream<'static, fingerpost_client::Result<Bytes>>, part: &Path) -> anyhow::Result<u64> {
    let mut file = tokio::fs::File::create(part).await.with_context(|| format!("can't create {}", part.display()))?;
    let lines = write(records, &mut file).await?;
    file.sync_all().await?;
    Ok(lines)
}

/// Writes all of an export; returns its lines.
async fn write<W: AsyncWrite + Unpin>(
    mut records: BoxStream<'static, fingerpost_client::Result<Bytes>>,
    out: &mut W,
) -> anyhow::Result<u64> {
    let mut lines = 0;
    while let Some(chunk) = records.try_next().await.context("the export is not whole")? {
        lines += chunk.iter().filter(|byte| **byte == b'\n').count() as u64;
        out.write_all(&chunk).await?;
    }
    out.flush().await?;
    Ok(lines)
}

pub(super) async fn import(context: &Context, args: ImportArgs) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct Reply {
        revision: Option<fingerpost_catalog::Position>,
        records: Option<u64>,
    }
    let name = super::file_name(&args.file);
    let mut input: Box<dyn AsyncRead + Send + Unpin> = if args.file.as_os_str() == "-" {
        Box::new(tokio::io::stdin())
    } else {
        Box::new(tokio::fs::File::open(&args.file).await.with_context(|| format!("can't open {name}"))?)
    };
    let first = portion(&mut input).await.with_context(|| format!("can't read {name}"))?;
    // A look at the head costs nothing and saves sending a wrong file to a registry that may be about to be replaced.
    if !first.starts_with(b"{\"fingerpost\"") {
        bail!("{name} is not an export of Fingerpost: its first line is no header");
    }
    let rest = stream::try_unfold(input, |mut input| async move {
        let chunk = portion(&mut input).await?;
        Ok((!chunk.is_empty()).then_some((chunk, input)))
    });
    let records = stream::once(async { Ok(first) }).chain(rest).boxed();
    let reply = context.registry.import(records, args.replace).await.with_context(|| format!("can't import {name}"))?;
    let reply = Reply { revision: reply.revision, records: reply.records };
    context.output.value(&reply, || {
        let records = reply
            .records
            .map_or_else(String::new, |records| format!(" {} from", super::status::counted(records, "record")));
        let revision = reply.revision.map_or_else(String::new, |revision| format!(" at {revision}"));
        format!("imported{records} {name}{revision}\n")
    })
}

async fn portion(input: &mut (dyn AsyncRead + Send + Unpin)) -> std::io::Result<Bytes> {
    let mut chunk = Vec::with_capacity(PORTION);
    input.take(PORTION as u64).read_to_end(&mut chunk).await?;
    Ok(chunk.into())
}
