import type { Millis } from '../../devices/reading.ts'
import type { Directory } from '../store/block.ts'
import { concatRows, mergeTimes, type Rows, sliceRows, sortRows } from '../store/columns.ts'

/** A part of one device's history: a sealed block, or what is not sealed yet. */
export interface Segment {
  firstTs: Millis
  lastTs: Millis
  rows: number
  /** The figures of the segment's columns, where they are known without opening it. */
  directory: Directory | null
  /** The rows with the wanted columns, ascending by time. */
  open(): Rows
}

/*
 * Segments are given in the order of the log: where two have a reading of the same time, the later one corrects the
 * earlier. Late readings make their times overlap.
 */

/** Rows between two times, one per time, corrections applied. */
export function readSegments(segments: readonly Segment[], from: Millis, to: Millis): Rows {
  const inside = segments.filter(({ firstTs, lastTs }) => lastTs >= from && firstTs < to)
  const parts = inside.map((segment) => sliceRows(segment.open(), from, to))
  const [only] = parts
  if (parts.length === 1 && only && inside[0]?.directory?.distinct) return only
  return mergeTimes(sortRows(concatRows(parts)))
}

/** Segments whose times overlap, together and in the order of the log; the groups ascend. */
export function clustersOf(segments: readonly Segment[]): Segment[][] {
  const byTime = segments.map((segment, place) => ({ segment, place }))
  byTime.sort((a, b) => a.segment.firstTs - b.segment.firstTs)
  const clusters: (typeof byTime)[] = []
  let reach = Number.NEGATIVE_INFINITY
  for (const entry of byTime) {
    if (entry.segment.firstTs > reach) clusters.push([entry])
    else clusters.at(-1)?.push(entry)
    reach = Math.max(reach, entry.segment.lastTs)
  }
  return clusters.map((cluster) => cluster.sort((a, b) => a.place - b.place).map(({ segment }) => segment))
}

/**
 * The end (with `desc`: the beginning) of a span of time that holds at least `limit` rows, so that a page opens no
 * more segments than it needs. A row count is an upper bound: corrections and cut segments have fewer, so the caller
 * looks at what it got and goes on.
 */
export function spanFor(segments: readonly Segment[], from: Millis, to: Millis, limit: number, desc: boolean) {
  const inside = segments.filter(({ firstTs, lastTs }) => lastTs >= from && firstTs < to)
  let rows = 0
  if (desc) {
    inside.sort((a, b) => b.lastTs - a.lastTs)
    for (const [index, segment] of inside.entries()) {
      rows += segment.rows
      const next = inside[index + 1]
      if (rows > limit && next && next.lastTs < segment.firstTs) return { from: Math.max(from, next.lastTs + 1), to }
    }
  } else {
    inside.sort((a, b) => a.firstTs - b.firstTs)
    for (const [index, segment] of inside.entries()) {
      rows += segment.rows
      const next = inside[index + 1]
      if (rows > limit && next && next.firstTs > segment.lastTs) return { from, to: Math.min(to, next.firstTs) }
    }
  }
  return { from, to }
}
