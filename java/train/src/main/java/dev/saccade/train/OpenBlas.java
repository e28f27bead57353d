package dev.saccade.train;

import dev.saccade.Context;
import dev.saccade.UnsupportedException;
import org.bytedeco.javacpp.Loader;
import org.bytedeco.javacpp.Pointer;
import org.bytedeco.openblas.global.openblas;

/**
 * OpenBLAS, through its JavaCPP preset, as the provider of matrix products.
 *
 * <p>The context calls {@code cblas_sgemm} from its own threads, so OpenBLAS must start none:
 * loading this class sets its thread count to 1 <b>for the whole process</b>, other users of the
 * same library included.
 *
 * <p>The preset offers {@code cblas_sgemm} to Java, not its address. The address comes from the
 * dynamic linker: the preset's own JNI library is opened again with its symbols global, which makes
 * those of the BLAS that it is linked with global too, whichever file that is (the bundled
 * OpenBLAS, the system's, MKL), and the symbol is looked up there.
 */
public final class OpenBlas {
  private OpenBlas() {}

  /** Loads the library when it is first used, once. */
  private static final class Library {
    static final long SGEMM = load();

    private static long load() {
      String path = Loader.load(openblas.class);
      openblas.blas_set_num_threads(1);
      if (path != null) {
        Loader.loadGlobal(path);
      }
      Pointer sgemm = Loader.addressof("cblas_sgemm");
      return sgemm == null ? 0 : sgemm.address();
    }
  }

  /**
   * Gives {@code context} the matrix products of OpenBLAS.
   *
   * @throws UnsupportedException if the BLAS that was loaded has no {@code cblas_sgemm}
   * @throws UnsatisfiedLinkError if the native library of the preset is not on the class path
   */
  public static void provideTo(Context context) {
    if (Library.SGEMM == 0) {
      throw new UnsupportedException("openblas: the BLAS that was loaded has no cblas_sgemm");
    }
    context.setGemm(Library.SGEMM);
  }
}
