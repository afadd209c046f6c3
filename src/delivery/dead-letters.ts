import type { ConsumerChange, DeadLetter, Offset, Store } from '../store/store.ts'

/** The readings that a consumer could not deal with. The table has them whole; here is where they lie in the log. */
export interface DeadLetters {
  readonly count: number
  /** As many as one consumer may have: nothing new is delivered until some are redriven or deleted. */
  readonly full: boolean
  anyBefore(offset: Offset): boolean
  bury(letter: DeadLetter): void
  raise(offset: Offset): void
  /** What was buried and raised since this was asked last; it goes to the table with the next change of the consumer. */
  changes(): Pick<ConsumerChange, 'buried' | 'raised'>
  /** What the table has, page by page: those named, or (`null`) all. */
  pages(ids: readonly Offset[] | null): AsyncGenerator<DeadLetter[], void, void>
}

const maxDeadLetters = 10_000
const pageLength = 1000

export function createDeadLetters(
  consumer: string,
  store: Pick<Store, 'deadLetters'>,
  known: readonly Offset[],
): DeadLetters {
  const offsets = new Set(known)
  let buried: DeadLetter[] = []
  let raised: Offset[] = []
  return {
    get count() {
      return offsets.size
    },
    get full() {
      return offsets.size >= maxDeadLetters
    },
    anyBefore: (offset) => [...offsets].some((one) => one < offset),
    bury(letter) {
      buried.push(letter)
      offsets.add(letter.offset)
    },
    raise(offset) {
      raised.push(offset)
      offsets.delete(offset)
    },
    changes() {
      const made = { buried, raised }
      buried = []
      raised = []
      return made
    },
    async *pages(ids) {
      let after = 0
      for (;;) {
        const letters = await store.deadLetters({ consumer, after, limit: pageLength })
        yield ids === null ? letters : letters.filter(({ offset }) => ids.includes(offset))
        if (letters.length < pageLength) return
        after = (letters.at(-1) as DeadLetter).offset + 1
      }
    },
  }
}
