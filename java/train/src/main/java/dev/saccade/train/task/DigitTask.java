package dev.saccade.train.task;

import java.util.random.RandomGenerator;

/** A kind of question about scenes of handwritten digits; the thoughts are the reading of them. */
abstract class DigitTask implements Task {

  /** How many different digits a scene must hold to be asked about; at least 1. */
  int distinctDigits() {
    return 1;
  }

  @Override
  public int thoughtsLength(int cells) {
    return cells * cells;
  }

  @Override
  public void requireFits(int cells) {
    if (cells * cells < distinctDigits()) {
      throw new IllegalArgumentException(
          "cells: task \"%s\" needs room for %d digits, got %d×%<d cells"
              .formatted(name(), distinctDigits(), cells));
    }
  }

  /** Asks about the first scene of the stream that holds enough different digits. */
  @Override
  public Example example(Setting setting, RandomGenerator random) {
    Digits digits = Digits.of(setting.split());
    Scene scene;
    do {
      scene = Scene.draw(setting.cells(), setting.emptyProbability(), digits, random);
    } while (scene.distinctDigits() < distinctDigits());
    return example(scene, random);
  }

  /**
   * Asks a question about a scene.
   *
   * @param scene with at least {@link #distinctDigits()} different digits
   */
  abstract Example example(Scene scene, RandomGenerator random);
}
