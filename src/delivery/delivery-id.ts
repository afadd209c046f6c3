import type { Offset } from '../store/store.ts'

/** One delivery of one reading; a seek begins a new epoch, in which older identifiers mean nothing. */
export interface DeliveryId {
  epoch: number
  offset: Offset
  attempt: number
}

/** As workers hold it: opaque to them. */
export function writeDeliveryId({ epoch, offset, attempt }: DeliveryId): string {
  return `${epoch.toString(36)}.${offset.toString(36)}.${attempt.toString(36)}`
}

/** `null`: it was never one of ours. */
export function readDeliveryId(text: string): DeliveryId | null {
  const match = /^([0-9a-z]{1,9})\.([0-9a-z]{1,11})\.([0-9a-z]{1,9})$/.exec(text)
  if (!match) return null
  const [epoch, offset, attempt] = match.slice(1).map((part) => Number.parseInt(part, 36)) as [number, number, number]
  return { epoch, offset, attempt }
}

/** Where the deliveries lie that were named, as far as their identifiers mean anything in this epoch. */
export function spansOf(ids: readonly string[], epoch: number): { from: Offset; to: Offset; attempt: number }[] {
  const named = ids.map(readDeliveryId).filter((id): id is DeliveryId => id?.epoch === epoch)
  const spans: { from: Offset; to: Offset; attempt: number }[] = []
  for (const { offset, attempt } of named.sort((a, b) => a.offset - b.offset)) {
    const last = spans.at(-1)
    if (last?.to === offset && last.attempt === attempt) last.to++
    else spans.push({ from: offset, to: offset + 1, attempt })
  }
  return spans
}
