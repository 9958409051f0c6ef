/** Everything that clients read in e-mails and Slack messages, in every language. What is filled in stands in braces. */
import type { Language } from '@keyturn/contract'
import type { Field } from './template.ts'

/**
 * What is said: a message, and where it makes a difference, in which case.
 * - `leak`: the leaked key is dead; `leak-overlap`: it dies at the deadline; `leak-of-dead-key`: it was dead before
 * - `emergency-grace`: the key dies at the deadline
 */
export const TEXT_NAMES = [
  'introduced',
  'reminder',
  'deadline-near',
  'deactivated',
  'rolled-back',
  'emergency',
  'emergency-grace',
  'leak',
  'leak-overlap',
  'leak-of-dead-key',
  'second-claim',
] as const
export type TextName = (typeof TEXT_NAMES)[number]

const ALWAYS: readonly Field[] = ['client', 'credential', 'environment', 'at']
const WINDOW: readonly Field[] = [...ALWAYS, 'oldKey', 'newKey', 'deadline', 'left', 'percent']
const REPLACED: readonly Field[] = [...ALWAYS, 'oldKey', 'newKey']

/** Which fields each may use. */
export const FIELDS_OF: Readonly<Record<TextName, readonly Field[]>> = {
  introduced: WINDOW,
  reminder: WINDOW,
  'deadline-near': WINDOW,
  deactivated: REPLACED,
  'rolled-back': [...ALWAYS, 'oldKey'],
  emergency: REPLACED,
  'emergency-grace': [...REPLACED, 'deadline', 'left'],
  leak: REPLACED,
  'leak-overlap': [...REPLACED, 'deadline', 'left'],
  'leak-of-dead-key': [...ALWAYS, 'oldKey'],
  'second-claim': ALWAYS,
}

export interface Text {
  readonly subject: string
  /** What has happened, and what follows. */
  readonly lead: string
  /** What to do, step by step. */
  readonly steps: readonly string[]
}

interface Labels {
  readonly credential: string
  readonly environment: string
  readonly oldKey: string
  readonly newKey: string
  readonly place: string
  readonly takeFromPlace: string
  readonly deadline: string
  readonly whatToDo: string
  readonly stillUsed: string
  readonly notUsedAnyMore: string
  readonly lastUsed: string
  readonly switchedOver: string
  readonly atThisRate: string
  readonly found: string
  readonly fetch: string
  readonly fetchHint: string
  readonly signIn: string
  /** Where the old key signs, and no link takes that over. */
  readonly signForIt: string
  readonly orAskForIt: string
  /** Where no link leads to the key. */
  readonly askForIt: string
  readonly footer: string
}

export interface Texts {
  readonly messages: Readonly<Record<TextName, Text>>
  readonly labels: Labels
}

export const TEXTS: Readonly<Record<Language, Texts>> = {
  en: {
    messages: {
      introduced: {
        subject: 'A new key for {credential} ({environment}): switch over by {deadline}',
        lead: 'Your key for {credential} is being replaced. Both keys work now. The old one may stop working after {deadline}.',
        steps: [
          'Fetch the new key.',
          'Put it in the place of the old one, in every program that uses it.',
          'That is all: when the new key is in use and the old one is not, the old one is switched off.',
        ],
      },
      reminder: {
        subject: 'Reminder: {credential} ({environment}) still uses its old key; {left} left',
        lead: '{percent} % of the time to switch over has passed, and the new key for {credential} has not been used. The old one may stop working after {deadline}.',
        steps: ['Fetch the new key, unless you have it.', 'Put it in the place of the old one, in every program that uses it.'],
      },
      'deadline-near': {
        subject: 'Only {left} left: {credential} ({environment}) still uses its old key',
        lead: 'The old key for {credential} may stop working after {deadline}. It is still in use, or the new one is not.',
        steps: ['Switch over what still uses the old key: it is listed below.', 'If you need more time, ask for it now.'],
      },
      deactivated: {
        subject: 'The old key for {credential} ({environment}) is switched off',
        lead: 'The old key {oldKey} for {credential} no longer works. The new one goes on.',
        steps: ['Nothing, unless a program of yours is refused: give it the new key.'],
      },
      'rolled-back': {
        subject: 'The change of key for {credential} ({environment}) is undone',
        lead: 'The old key {oldKey} for {credential} goes on working, and the new one does not work any more.',
        steps: ['Go back to the old key wherever you have put the new one.', 'Delete the new key.'],
      },
      emergency: {
        subject: 'Urgent: the key for {credential} ({environment}) has been switched off',
        lead: 'The key {oldKey} for {credential} was exposed and no longer works. Requests with it are refused. A new key is ready.',
        steps: ['Fetch the new key at once.', 'Put it in the place of the old one, in every program that uses it.'],
      },
      'emergency-grace': {
        subject: 'Urgent: switch {credential} ({environment}) over by {deadline}',
        lead: 'The key {oldKey} for {credential} was exposed. It stops working at {deadline}, in {left}, or as soon as you have switched over.',
        steps: ['Fetch the new key at once.', 'Put it in the place of the old one, in every program that uses it.'],
      },
      leak: {
        subject: 'Urgent: a leaked key for {credential} ({environment}) has been switched off',
        lead: 'The key {oldKey} for {credential} was found where others can read it. It no longer works. A new key is ready.',
        steps: [
          'Fetch the new key at once.',
          'Put it in the place of the old one, in every program that uses it.',
          'Take the old key away from where it was found.',
        ],
      },
      'leak-overlap': {
        subject: 'Urgent: the key for {credential} ({environment}) has leaked: switch over by {deadline}',
        lead: 'The key {oldKey} for {credential} was found where others can read it. It stops working at {deadline}, in {left}.',
        steps: [
          'Fetch the new key at once.',
          'Put it in the place of the old one, in every program that uses it.',
          'Take the old key away from where it was found.',
        ],
      },
      'leak-of-dead-key': {
        subject: 'A dead key for {credential} ({environment}) was found in public',
        lead: 'The key {oldKey} for {credential} was found where others can read it. It did not work any more before that.',
        steps: ['Take it away from where it was found.', 'See that the key in use is not kept in the same place.'],
      },
      'second-claim': {
        subject: 'Urgent: the key for {credential} ({environment}) was asked for a second time',
        lead: 'At {at} somebody used a claim for a key of {credential} that had been used before. Each hands its key out once.',
        steps: [
          'If both were you, nothing is wrong: use the key that you got the first time.',
          'If you did not get the key, somebody else has it: tell us at once, and we replace it.',
        ],
      },
    },
    labels: {
      credential: 'Credential',
      environment: 'Environment',
      oldKey: 'Old key',
      newKey: 'New key',
      place: 'The new key is in',
      takeFromPlace: 'There is nothing to fetch: have your programs read the new key where it has been written.',
      deadline: 'Switch over by',
      whatToDo: 'What to do',
      stillUsed: 'Who used the old key last',
      notUsedAnyMore: 'No use of the old key is known.',
      lastUsed: 'last at',
      switchedOver: 'Programs that use the new key',
      atThisRate: 'at this rate all by',
      found: 'Where it was found',
      fetch: 'Fetch the new key',
      fetchHint: 'This link holds no secret: the page asks for the old key.',
      signIn: 'Sign in, and fetch it there',
      signForIt:
        'Programs with our library or agent fetch the new key by themselves; any other asks for it with a request that the old key signs. Never enter the old key itself anywhere.',
      orAskForIt: 'If neither is possible, answer this message, or ask us as you always do: we give you a claim for it.',
      askForIt:
        'To get the new key, answer this message, or ask us as you always do: once we know that it is you, we give you a claim for it. The old key does not open the way to it.',
      footer: 'You get this message because you are a contact for this credential.',
    },
  },
  de: {
    messages: {
      introduced: {
        subject: 'Neuer Schlüssel für {credential} ({environment}): bitte bis {deadline} umstellen',
        lead: 'Ihr Schlüssel für {credential} wird ersetzt. Beide Schlüssel gelten jetzt. Der alte kann nach dem {deadline} ungültig werden.',
        steps: [
          'Holen Sie den neuen Schlüssel ab.',
          'Setzen Sie ihn in jedem Programm ein, das den alten verwendet.',
          'Das ist alles: Sobald der neue verwendet wird und der alte nicht mehr, wird der alte abgeschaltet.',
        ],
      },
      reminder: {
        subject: 'Erinnerung: {credential} ({environment}) verwendet noch den alten Schlüssel; es bleiben {left}',
        lead: '{percent} % der Zeit zum Umstellen sind vorbei, und der neue Schlüssel für {credential} wurde noch nicht verwendet. Der alte kann nach dem {deadline} ungültig werden.',
        steps: [
          'Holen Sie den neuen Schlüssel ab, falls Sie ihn noch nicht haben.',
          'Setzen Sie ihn in jedem Programm ein, das den alten verwendet.',
        ],
      },
      'deadline-near': {
        subject: 'Nur noch {left}: {credential} ({environment}) verwendet noch den alten Schlüssel',
        lead: 'Der alte Schlüssel für {credential} kann nach dem {deadline} ungültig werden. Er wird noch verwendet, oder der neue noch nicht.',
        steps: [
          'Stellen Sie um, was noch den alten Schlüssel verwendet: Es steht unten.',
          'Wenn Sie mehr Zeit brauchen, bitten Sie jetzt darum.',
        ],
      },
      deactivated: {
        subject: 'Der alte Schlüssel für {credential} ({environment}) ist abgeschaltet',
        lead: 'Der alte Schlüssel {oldKey} für {credential} gilt nicht mehr. Der neue gilt weiter.',
        steps: ['Nichts, außer eines Ihrer Programme wird abgewiesen: Geben Sie ihm den neuen Schlüssel.'],
      },
      'rolled-back': {
        subject: 'Der Schlüsselwechsel für {credential} ({environment}) ist zurückgenommen',
        lead: 'Der alte Schlüssel {oldKey} für {credential} gilt weiter, und der neue gilt nicht mehr.',
        steps: ['Setzen Sie den alten Schlüssel überall wieder ein, wo der neue steht.', 'Löschen Sie den neuen Schlüssel.'],
      },
      emergency: {
        subject: 'Dringend: Der Schlüssel für {credential} ({environment}) ist abgeschaltet',
        lead: 'Der Schlüssel {oldKey} für {credential} wurde bekannt und gilt nicht mehr. Anfragen mit ihm werden abgewiesen. Ein neuer Schlüssel liegt bereit.',
        steps: ['Holen Sie sofort den neuen Schlüssel ab.', 'Setzen Sie ihn in jedem Programm ein, das den alten verwendet.'],
      },
      'emergency-grace': {
        subject: 'Dringend: {credential} ({environment}) bis {deadline} umstellen',
        lead: 'Der Schlüssel {oldKey} für {credential} wurde bekannt. Er gilt bis {deadline}, also noch {left}, oder bis Sie umgestellt haben.',
        steps: ['Holen Sie sofort den neuen Schlüssel ab.', 'Setzen Sie ihn in jedem Programm ein, das den alten verwendet.'],
      },
      leak: {
        subject: 'Dringend: Ein öffentlich gewordener Schlüssel für {credential} ({environment}) ist abgeschaltet',
        lead: 'Der Schlüssel {oldKey} für {credential} wurde gefunden, wo andere ihn lesen können. Er gilt nicht mehr. Ein neuer Schlüssel liegt bereit.',
        steps: [
          'Holen Sie sofort den neuen Schlüssel ab.',
          'Setzen Sie ihn in jedem Programm ein, das den alten verwendet.',
          'Entfernen Sie den alten Schlüssel von dort, wo er gefunden wurde.',
        ],
      },
      'leak-overlap': {
        subject: 'Dringend: Der Schlüssel für {credential} ({environment}) ist öffentlich geworden: bis {deadline} umstellen',
        lead: 'Der Schlüssel {oldKey} für {credential} wurde gefunden, wo andere ihn lesen können. Er gilt bis {deadline}, also noch {left}.',
        steps: [
          'Holen Sie sofort den neuen Schlüssel ab.',
          'Setzen Sie ihn in jedem Programm ein, das den alten verwendet.',
          'Entfernen Sie den alten Schlüssel von dort, wo er gefunden wurde.',
        ],
      },
      'leak-of-dead-key': {
        subject: 'Ein ungültiger Schlüssel für {credential} ({environment}) wurde öffentlich gefunden',
        lead: 'Der Schlüssel {oldKey} für {credential} wurde gefunden, wo andere ihn lesen können. Er galt schon vorher nicht mehr.',
        steps: [
          'Entfernen Sie ihn von dort, wo er gefunden wurde.',
          'Prüfen Sie, dass der gültige Schlüssel nicht an derselben Stelle steht.',
        ],
      },
      'second-claim': {
        subject: 'Dringend: Der Schlüssel für {credential} ({environment}) wurde ein zweites Mal abgeholt',
        lead: 'Am {at} hat jemand einen Abholschein für einen Schlüssel von {credential} verwendet, der schon verwendet war. Jeder gibt seinen Schlüssel einmal heraus.',
        steps: [
          'Waren Sie es beide Male, ist nichts falsch: Verwenden Sie den Schlüssel vom ersten Mal.',
          'Haben Sie den Schlüssel nicht bekommen, hat ihn jemand anderes: Sagen Sie es uns sofort, wir ersetzen ihn.',
        ],
      },
    },
    labels: {
      credential: 'Zugang',
      environment: 'Umgebung',
      oldKey: 'Alter Schlüssel',
      newKey: 'Neuer Schlüssel',
      place: 'Der neue Schlüssel steht in',
      takeFromPlace:
        'Es gibt nichts abzuholen: Lassen Sie Ihre Programme den neuen Schlüssel dort lesen, wohin er geschrieben wurde.',
      deadline: 'Umstellen bis',
      whatToDo: 'Was zu tun ist',
      stillUsed: 'Wer den alten Schlüssel zuletzt verwendet hat',
      notUsedAnyMore: 'Vom alten Schlüssel ist keine Verwendung bekannt.',
      lastUsed: 'zuletzt am',
      switchedOver: 'Programme, die den neuen Schlüssel verwenden',
      atThisRate: 'wenn es so weitergeht, alle bis',
      found: 'Wo er gefunden wurde',
      fetch: 'Neuen Schlüssel abholen',
      fetchHint: 'Dieser Link enthält kein Geheimnis: Die Seite verlangt den alten Schlüssel.',
      signIn: 'Anmelden und dort abholen',
      signForIt:
        'Programme mit unserer Bibliothek oder unserem Agenten holen den neuen Schlüssel von selbst ab; jedes andere fragt danach mit einer Anfrage, die der alte Schlüssel signiert. Geben Sie den alten Schlüssel selbst nirgends ein.',
      orAskForIt:
        'Geht beides nicht, antworten Sie auf diese Nachricht oder fragen Sie uns wie sonst auch: Sie bekommen von uns einen Abholschein dafür.',
      askForIt:
        'Um den neuen Schlüssel zu bekommen, antworten Sie auf diese Nachricht oder fragen Sie uns wie sonst auch: Sobald wir wissen, dass Sie es sind, bekommen Sie von uns einen Abholschein dafür. Der alte Schlüssel öffnet den Weg zum neuen nicht.',
      footer: 'Sie erhalten diese Nachricht, weil Sie als Kontakt für diesen Zugang eingetragen sind.',
    },
  },
}
