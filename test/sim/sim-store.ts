/**
 * A member's way to the store in the simulation: plain copies, delays, losses before or after the script ran, lost hints.
 * `breakage` puts one known mistake in, so that the checks can be seen to catch it.
 */
import { tallyPins } from '../../src/core/pins.ts';
import type { Journal } from '../../src/storage/journal.ts';
import type { Store } from '../../src/storage/store.ts';
import type { ProcessClock, SimClock } from './sim-clock.ts';

export type Breakage =
  | 'none'
  | 'ack-before-closing'
  | 'pins-lost'
  | 'commit-without-all'
  | 'acts-after-lease'
  | 'joiner-not-told'
  | 'holds-all';

export interface Link {
  cut: boolean;
}

export const nobody = tallyPins(new Map());

export function linkedStore(options: {
  /** The store of now: it may be another after a restart of the parent. */
  readonly store: () => Store;
  readonly world: SimClock;
  readonly process: ProcessClock;
  readonly link: Link;
  readonly lossChance: () => number;
  readonly breakage: Breakage;
}): Store {
  const { store, world, process, link, lossChance, breakage } = options;
  const call = <Reply>(run: () => Promise<Reply>): Promise<Reply> =>
    new Promise(resolve => {
      const lost = (): boolean => link.cut || world.chance() < lossChance();
      if (lost()) return;
      world.after(delay(), () => {
        if (link.cut) return;
        void run().then(reply => {
          const copy = structuredClone(reply);
          if (!lost()) world.after(delay(), () => process.inProcess(() => resolve(copy)));
        });
      });
    });
  const delay = (): number => (world.chance() < 0.05 ? 400 : 30) * world.chance();
  const copy = <Value>(value: Value): Value => JSON.parse(JSON.stringify(value)) as Value;

  const good: Store = {
    renew: (member, beat, have) => call(() => store().renew(member, beat, have)),
    join: (identity, dead) => call(() => store().join(copy(identity), dead)),
    look: have => call(() => store().look(have)),
    restore: (image, maps) => call(() => store().restore(copy(image), copy(maps))),
    open: () => call(() => store().open()),
    propose: proposal => call(() => store().propose(copy(proposal))),
    addPins: (id, member, index, chunk) => call(() => store().addPins(id, member, index, copy(chunk))),
    ack: (id, member, tally) => call(() => store().ack(id, member, copy(tally))),
    commit: (id, lapsed) => call(() => store().commit(id, copy(lapsed))),
    withdraw: (id, lapsed) => call(() => store().withdraw(id, copy(lapsed))),
    fate: id => call(() => store().fate(id)),
    leave: member => call(() => store().leave(member)),
    gone: member => call(() => store().gone(member)),
    expel: member => call(() => store().expel(member)),
    claim: (user, node, member) => call(() => store().claim(user, node, member)),
    unclaim: (user, member) => call(() => store().unclaim(user, member)),
    putMap: content => call(() => store().putMap(copy(content))),
    map: digest => call(() => store().map(digest)),
    busy: (member, report) => call(() => store().busy(member, copy(report))),
    idle: () => call(() => store().idle()),
    onHint: listener =>
      store().onHint(() => {
        if (!link.cut && world.chance() < 0.7) world.after(delay(), () => process.inProcess(listener));
      }),
  };
  return broken(good, store, breakage);
}

function broken(good: Store, store: () => Store, breakage: Breakage): Store {
  switch (breakage) {
    case 'ack-before-closing':
      return {
        ...good,
        renew: async (member, beat, have) => {
          const reply = await good.renew(member, beat, have);
          if (reply.ok && reply.proposal !== null) void store().ack(reply.proposal.id, member, nobody);
          return reply;
        },
      };
    case 'pins-lost':
      return {
        ...good,
        addPins: async () => ({ ok: true }),
        ack: (id, member) => good.ack(id, member, nobody),
      };
    case 'joiner-not-told':
      return {
        ...good,
        join: async (identity, dead) => {
          const reply = await good.join(identity, dead);
          if (!reply.ok || reply.proposal === null) return reply;
          void store().ack(reply.proposal.id, identity.member, nobody);
          return { ...reply, proposal: null };
        },
        renew: async (member, beat, have) => {
          const reply = await good.renew(member, beat, have);
          const acked = reply.ok && reply.members.some(each => each.member === member && each.acked);
          return reply.ok && acked && reply.catchUp.kind === 'none' ? { ...reply, proposal: null } : reply;
        },
      };
    default:
      return good;
  }
}

/** A journal whose disk is the simulation's memory: it survives the parent. */
export function memoryJournal(disk: { records: string[] }): Journal {
  return {
    append: record => {
      disk.records.push(JSON.stringify(record));
      return { ok: true };
    },
    rewrite: records => {
      disk.records = records.map(record => JSON.stringify(record));
      return { ok: true };
    },
    get bytes() {
      return disk.records.reduce((sum, record) => sum + record.length, 0);
    },
    close: () => undefined,
  };
}
