/** Work of many that is done one piece at a time. */
export interface Turns {
  /** Does it when it is the turn of whoever it is for. */
  take<T>(whose: string, work: () => Promise<T>): Promise<T>
  /** How much waits, in all or for one. */
  waiting(whose?: string): number
}

/** Who has much to do waits for itself: all that have something take turns, whatever each has piled up. */
export function createTurns(): Turns {
  // The first one is the next to be served.
  const queues = new Map<string, (() => void)[]>()
  let waiting = 0
  let working = false

  function next(): void {
    const [first] = queues
    if (!first) {
      working = false
      return
    }
    const [whose, queue] = first
    const begin = queue.shift() as () => void
    queues.delete(whose)
    if (queue.length > 0) queues.set(whose, queue)
    waiting--
    begin()
  }

  return {
    async take(whose, work) {
      if (working) {
        const queue = queues.get(whose) ?? []
        queues.set(whose, queue)
        waiting++
        await new Promise<void>((resolve) => void queue.push(resolve))
      }
      working = true
      try {
        return await work()
      } finally {
        next()
      }
    },
    waiting: (whose) => (whose === undefined ? waiting : (queues.get(whose)?.length ?? 0)),
  }
}
