package dev.saccade;

import static org.assertj.core.api.Assertions.assertThat;

import java.math.BigDecimal;
import java.util.Random;
import java.util.function.IntToDoubleFunction;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

class DTypeTest {
  /** A 16-bit format: its conversions, and the same from its definition, in double. */
  private enum Format {
    BF16(8, 7) {
      @Override
      float decode(short bits) {
        return DType.bf16ToFloat(bits);
      }

      @Override
      short encode(float value) {
        return DType.floatToBf16(value);
      }
    },
    F16(5, 10) {
      @Override
      float decode(short bits) {
        return DType.f16ToFloat(bits);
      }

      @Override
      short encode(float value) {
        return DType.floatToF16(value);
      }
    };

    final int fractionBits;
    final int bias;
    final int infinity;

    Format(int exponentBits, int fractionBits) {
      this.fractionBits = fractionBits;
      bias = (1 << exponentBits - 1) - 1;
      infinity = (1 << exponentBits) - 1 << fractionBits;
    }

    abstract float decode(short bits);

    abstract short encode(float value);

    /** The value of non-negative finite bits; of infinity's bits, what would follow the largest. */
    double define(int bits) {
      int exponent = bits >>> fractionBits;
      int fraction = bits & (1 << fractionBits) - 1;
      return exponent == 0
          ? Math.scalb((double) fraction, 1 - bias - fractionBits)
          : Math.scalb((double) (fraction | 1 << fractionBits), exponent - bias - fractionBits);
    }

    /** The nearest bits to a non-negative finite value, of two equally near the even ones. */
    int nearest(double value) {
      int low = 0;
      int high = infinity;
      while (high - low > 1) {
        int middle = low + high >>> 1;
        if (define(middle) <= value) {
          low = middle;
        } else {
          high = middle;
        }
      }
      IntToDoubleFunction distance =
          bits -> new BigDecimal(define(bits)).subtract(new BigDecimal(value)).abs().doubleValue();
      double below = distance.applyAsDouble(low);
      double above = distance.applyAsDouble(high);
      return below < above || below == above && (low & 1) == 0 ? low : high;
    }
  }

  @ParameterizedTest
  @EnumSource
  void everyBitPatternMeansWhatTheFormatDefinesAndComesBack(Format format) {
    for (int bits = 0; bits < 1 << 16; bits++) {
      int magnitude = bits & 0x7fff;
      float value = format.decode((short) bits);
      int back = format.encode(value) & 0xffff;
      if (magnitude > format.infinity) {
        assertThat(value).as("%04x", bits).isNaN();
        int quiet = 1 << format.fractionBits - 1;
        assertThat(back).as("%04x: sign and payload kept", bits).isEqualTo(bits | quiet);
      } else {
        double expected =
            magnitude == format.infinity ? Double.POSITIVE_INFINITY : format.define(magnitude);
        assertThat((double) Math.abs(value)).as("%04x", bits).isEqualTo(expected);
        assertThat(Float.floatToRawIntBits(value) < 0)
            .as("sign of %04x", bits)
            .isEqualTo(bits > 0x7fff);
        assertThat(back).as("%04x", bits).isEqualTo(bits);
      }
    }
  }

  @ParameterizedTest
  @EnumSource
  void tiesGoToEvenAndTheirNeighboursToTheNearest(Format format) {
    for (int bits = 0; bits < format.infinity; bits++) {
      double middle = (format.define(bits) + format.define(bits + 1)) / 2;
      float tie = (float) middle;
      assertThat((double) tie).as("halfway between %04x and the next", bits).isEqualTo(middle);
      int even = bits + (bits & 1);
      for (int sign : new int[] {0, 0x8000}) {
        float s = sign == 0 ? 1 : -1;
        assertThat(format.encode(s * tie) & 0xffff).as("%04x", bits).isEqualTo(sign | even);
        assertThat(format.encode(s * Math.nextDown(tie)) & 0xffff)
            .as("%04x", bits)
            .isEqualTo(sign | bits);
        assertThat(format.encode(s * Math.nextUp(tie)) & 0xffff)
            .as("%04x", bits)
            .isEqualTo(sign | bits + 1);
      }
    }
  }

  @ParameterizedTest
  @EnumSource
  void anyFloatRoundsToTheNearest(Format format) {
    Random random = new Random(7);
    for (int i = 0; i < 10_000; i++) {
      float value = Float.intBitsToFloat(random.nextInt() & 0x7fffffff);
      if (i % 2 == 1) {
        value = (float) Math.scalb(random.nextDouble(), random.nextInt(48) - 30); // f16's range
      }
      if (Float.isFinite(value)) {
        assertThat(format.encode(value) & 0xffff).as("%s", value).isEqualTo(format.nearest(value));
      }
    }
  }

  @Test
  void edges() {
    assertThat(DType.floatToF16(65504)).isEqualTo((short) 0x7bff);
    assertThat(DType.floatToF16(Math.nextDown(65520f))).isEqualTo((short) 0x7bff);
    assertThat(DType.floatToF16(65520)).isEqualTo((short) 0x7c00);
    assertThat(DType.floatToF16(Float.MAX_VALUE)).isEqualTo((short) 0x7c00);
    assertThat(DType.floatToF16(Float.NEGATIVE_INFINITY)).isEqualTo((short) 0xfc00);
    assertThat(DType.floatToF16(-0f)).isEqualTo((short) 0x8000);
    assertThat(DType.floatToF16(0x1p-24f)).isEqualTo((short) 1);
    assertThat(DType.floatToF16(0x1p-25f)).as("a tie to 0").isZero();
    assertThat(DType.floatToF16(Math.nextUp(0x1p-25f))).isEqualTo((short) 1);
    assertThat(DType.floatToF16(Float.MIN_VALUE)).isZero();
    assertThat(DType.floatToBf16(Float.MAX_VALUE)).isEqualTo((short) 0x7f80);
    assertThat(DType.floatToBf16(Float.MIN_VALUE)).isZero();
    assertThat(DType.floatToBf16(-0f)).isEqualTo((short) 0x8000);
    // a NaN whose payload lies below the bits that remain
    for (int nan : new int[] {0x7f800001, 0xff800001, 0x7fffffff, 0xffffffff}) {
      assertThat(DType.bf16ToFloat(DType.floatToBf16(Float.intBitsToFloat(nan)))).isNaN();
      assertThat(DType.f16ToFloat(DType.floatToF16(Float.intBitsToFloat(nan)))).isNaN();
    }
  }

  @Test
  void names() {
    assertThat(DType.values())
        .extracting(DType::toString)
        .containsExactly("f32", "bf16", "f16", "f64", "i32", "i64", "u8");
    assertThat(DType.values())
        .extracting(DType::safetensorsName)
        .containsExactly("F32", "BF16", "F16", "F64", "I32", "I64", "U8");
    assertThat(DType.values()).extracting(DType::bytes).containsExactly(4, 2, 2, 8, 4, 8, 1);
    assertThat(DType.FLOAT).containsExactlyInAnyOrder(DType.F32, DType.BF16, DType.F16);
  }
}
