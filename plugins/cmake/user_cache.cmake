# seqexport_user_cache: $XDG_CACHE_HOME, or ~/.cache; empty where neither variable has an absolute path, since a relative
# one would be of the folder that CMake happens to run in.
if(IS_ABSOLUTE "$ENV{XDG_CACHE_HOME}")
  set(seqexport_user_cache "$ENV{XDG_CACHE_HOME}")
elseif(IS_ABSOLUTE "$ENV{HOME}")
  set(seqexport_user_cache "$ENV{HOME}/.cache")
else()
  set(seqexport_user_cache "")
endif()
