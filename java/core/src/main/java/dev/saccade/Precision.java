package dev.saccade;

import dev.saccade.binding.Saccade;

/** What the f32 factors of a product may be rounded to before they are multiplied; sums are f32. */
public enum Precision {
  F32(Saccade.SACCADE_PRECISION_F32),
  /** 10 bits of mantissa; GPUs only. */
  TF32(Saccade.SACCADE_PRECISION_TF32),
  /** 7 bits of mantissa; GPUs only. */
  BF16(Saccade.SACCADE_PRECISION_BF16);

  private final int code;

  Precision(int code) {
    this.code = code;
  }

  int code() {
    return code;
  }
}
